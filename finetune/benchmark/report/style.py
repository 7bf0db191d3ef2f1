"""How the page looks: one column, quiet colours in light and dark, readable from 320 pixels on and on paper."""

STYLE = """
:root { color-scheme: light dark;
  --back: #fbfaf8; --card: #ffffff; --ink: #23221f; --quiet: #66635d; --line: #e3e0da; --soft: #f1eee8;
  --accent: #2b5f91; --pale: #a9bfd6; --good: #1d7443; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root {
  --back: #16171a; --card: #1e2024; --ink: #e8e6e1; --quiet: #a5a29b; --line: #35373d; --soft: #26282d;
  --accent: #8db8e6; --pale: #46627f; --good: #63cb8e; --bad: #ff9188; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 52rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 0 0 .35rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: 0 0 .8rem; overflow-wrap: anywhere; }
section { margin-top: 3rem; }
ul { margin: .4rem 0 .8rem; padding-left: 1.2rem; } li { overflow-wrap: anywhere; }
.quiet, small { color: var(--quiet); } .quiet { font-size: .92rem; }
.better { color: var(--good); } .worse { color: var(--bad); } .no-evidence { color: var(--quiet); }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.verdict { font-size: 1.08rem; margin: 1rem 0 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.4rem, 1fr)); gap: .75rem; margin: 1.5rem 0 0; padding: 0;
  list-style: none; }
.tiles li { background: var(--card); border: 1px solid var(--line); border-radius: .7rem; padding: .8rem .9rem; }
.tiles b { display: block; font-size: 1.2rem; font-weight: 600; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--quiet); font-size: .85rem; } .tiles em { font-style: normal; font-size: .85rem; }
dl { display: grid; grid-template-columns: minmax(7rem, 11rem) 1fr; margin: .6rem 0 0; }
dt, dd { margin: 0; padding: .42rem 0; border-top: 1px solid var(--line); overflow-wrap: anywhere; }
dt { color: var(--quiet); padding-right: 1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; margin: .8rem 0 0; }
th, td { text-align: left; font-weight: 400; padding: .42rem .8rem .42rem 0; border-top: 1px solid var(--line); vertical-align: baseline; }
thead th { color: var(--quiet); font-size: .88rem; border-top: 0; } thead td { border: 0; }
tbody th { color: var(--quiet); }
.scores tbody tr:first-child th { color: var(--ink); font-weight: 600; border-top: 1px solid var(--line); padding-top: .8rem; }
.scores tbody tr:first-child em { font-style: normal; font-weight: 400; margin-left: .6rem; }
.scores tbody tr + tr > * { border: 0; padding-top: .1rem; padding-bottom: .1rem; }
.scores tbody tr:last-child > * { padding-bottom: .9rem; }
.scores td { white-space: nowrap; } .scores td:last-child { width: 45%; padding-right: 0; }
.range { display: block; position: relative; height: .9rem; }
.range::before { content: ""; position: absolute; left: 0; right: 0; top: 50%; border-top: 1px solid var(--line); }
.range i { position: absolute; top: .28rem; height: .34rem; border-radius: .2rem; background: var(--pale); }
.range b { position: absolute; top: .1rem; width: .7rem; height: .7rem; margin-left: -.35rem; border-radius: 50%; background: var(--accent);
  border: 2px solid var(--back); }
figure { margin: 1.4rem 0 0; } figcaption { font-weight: 600; }
figcaption span { font-weight: 400; color: var(--quiet); font-size: .92rem; }
.plot { position: relative; height: 11rem; margin: .8rem 0 0 3.2rem; border-bottom: 1px solid var(--line); }
.plot svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.plot polyline { fill: none; stroke-linejoin: round; vector-effect: non-scaling-stroke; }
.raw { stroke: var(--pale); stroke-width: 1.2; } .mean { stroke: var(--accent); stroke-width: 2.2; }
.tick { position: absolute; left: 0; right: 0; border-top: 1px dashed var(--line); }
.tick span { position: absolute; right: 100%; top: -.65rem; padding-right: .5rem; font-size: .78rem; line-height: 1.3rem;
  color: var(--quiet); white-space: nowrap; }
.axis { display: flex; justify-content: space-between; margin: .3rem 0 0 3.2rem; font-size: .78rem; color: var(--quiet); }
.bars { display: flex; align-items: flex-end; gap: 2px; height: 7rem; margin: .8rem 0 0; border-bottom: 1px solid var(--line); }
.bars i { flex: 1; background: var(--pale); border-radius: 2px 2px 0 0; } .bars + .axis { margin-left: 0; }
.ranks { table-layout: fixed; font-size: .78rem; border-collapse: separate; border-spacing: 2px; }
.ranks th, .ranks td { text-align: center; padding: .1rem 0; border: 0; border-radius: 3px; line-height: 1.35; }
.ranks thead th { font-size: .75rem; overflow-wrap: anywhere; }
.answer { background: var(--card); border: 1px solid var(--line); border-radius: .7rem; padding: 1rem; margin-top: 1rem; }
.answer h3 { margin: 0 0 .5rem; font-size: .85rem; font-weight: 400; color: var(--quiet); }
.words { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; unicode-bidi: plaintext; }
.code { font: .86rem/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
.prompt { color: var(--quiet); border-inline-start: 3px solid var(--line); padding-inline-start: .8rem; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 13rem), 1fr)); gap: .9rem 1.2rem; margin: .9rem 0 0; }
.sides:has(> :nth-child(4)) { grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); }
.sides h4 { margin: 0 0 .15rem; font-size: .82rem; font-weight: 400; color: var(--quiet); }
.sides div.after { border-left: 3px solid var(--accent); padding-left: .7rem; }
details { margin-top: 1.2rem; } summary { cursor: pointer; color: var(--accent); padding: .3rem 0; }
pre { background: var(--soft); border-radius: .6rem; padding: .8rem .9rem; margin: .6rem 0 0;
  white-space: pre-wrap; overflow-wrap: anywhere; font: .88rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
@media (max-width: 34rem) {
  main { padding: 1.5rem 1rem 3rem; } section { margin-top: 2.4rem; } h1 { font-size: 1.55rem; }
  dl { grid-template-columns: 1fr; } dt { padding: .5rem 0 0; font-size: .88rem; } dd { border: 0; padding: 0 0 .3rem; }
  .scores td:last-child { width: 30%; } th, td { padding-right: .5rem; } .scores td { font-size: .92rem; }
  .tiles { grid-template-columns: 1fr 1fr; gap: .5rem; } .tiles b { font-size: 1.05rem; } .tiles li { padding: .65rem .7rem; }
  .ranks { border-spacing: 1px; }
}
@media print {
  :root { --back: #fff; --card: #fff; --ink: #000; --quiet: #555; --line: #ccc; --soft: #f4f4f4; --accent: #2b5f91; --pale: #a9bfd6;
    --good: #1d7443; --bad: #b3261e; color-scheme: light; }
  body { font-size: 10.5pt; } main { max-width: none; padding: 0; } section { margin-top: 1.6rem; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  h2, h3, figcaption { break-after: avoid; } figure, .answer, .tiles, dt, dd, tbody tr { break-inside: avoid; }
  details:not([open]) { display: none; }
}
"""
