// The theme puts tables into boxes that scroll where they are wider than the screen: a keyboard must reach these.
const reachable = () => document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])").forEach((box) => { box.tabIndex = 0 })
new MutationObserver(reachable).observe(document.documentElement, { childList: true, subtree: true })
