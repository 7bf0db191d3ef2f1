// Tables and screens scroll where they are wider than the page: a keyboard must reach them.
const boxes = ".md-typeset__scrollwrap:not([tabindex]), .md-typeset p:has(> img[src*='pictures/']):not([tabindex])"
const reachable = () => document.querySelectorAll(boxes).forEach((box) => { box.tabIndex = 0 })
new MutationObserver(reachable).observe(document.documentElement, { childList: true, subtree: true })
