"""How the report looks: light and dark, wide and narrow, on screen and on paper."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --paper: #fff; --card: #f6f8fa; --edge: #d1d9e0;
  --mark: #0b5cad; --fill: #0b5cad33; --stop: #9a3412; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9ba5b0; --paper: #0d1117; --card: #161b22;
  --edge: #30363d; --mark: #6cb6ff; --fill: #6cb6ff33; --stop: #ffa657; } }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; color: var(--ink);
  background: var(--paper); max-width: 54rem; margin: 0 auto; padding: 1.25rem 1rem 4rem; }
h1 { font-size: 1.35rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--edge); }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
p { margin: .4rem 0 .8rem; max-width: 46rem; } .note { color: var(--soft); font-size: .9rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.card { background: var(--card); border: 1px solid var(--edge); border-radius: 8px; padding: .6rem .8rem; }
.card b { display: block; font-size: 1.45rem; line-height: 1.3; } .card span { font-size: .85rem; color: var(--soft); }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: .5rem 0; font-size: .92rem; min-width: 60%; }
th, td { text-align: right; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--edge); white-space: nowrap;
  font-variant-numeric: tabular-nums; vertical-align: top; }
th { font-weight: 600; color: var(--soft); } td:first-child, th:first-child { text-align: left; }
td.words, th.words { text-align: left; white-space: normal; } td.words { min-width: 9rem; max-width: 30rem; }
code { font-size: .85rem; overflow-wrap: anywhere; } dl { margin: .5rem 0; }
dt { color: var(--soft); font-size: .85rem; } dd { margin: 0 0 .5rem; overflow-wrap: anywhere; }
svg[role=img] { width: 100%; height: auto; margin: .5rem 0; }
svg text { font-size: 13px; fill: var(--ink); }
svg .halo { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
svg .grid { stroke: var(--edge); } svg .limit { stroke: var(--stop); stroke-width: 2; stroke-dasharray: 6 4; }
svg .mark { fill: var(--mark); stroke: var(--mark); stroke-width: 2; } svg .open { fill: var(--paper); }
svg .path { fill: none; stroke: var(--soft); stroke-dasharray: 2 3; } svg .bar { fill: var(--mark); }
svg .frame { fill: none; stroke: var(--soft); } svg .line { stroke: var(--mark); stroke-width: 2.5; }
svg .dot { fill: var(--mark); } svg .plain { fill: var(--fill); } svg .hatched { fill: url(#hatch); }
svg .dotted { fill: url(#dots); } svg.cell { width: 62px; height: 10px; margin-right: .4rem; }
@media (max-width: 34rem) { body { padding: 1rem .75rem 3rem; } svg text { font-size: 18px; } }
@media print { body { max-width: none; } section { break-inside: avoid; } }
"""
