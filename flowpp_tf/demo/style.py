"""Style the page: fonts of the visitor's machine, and CSS in Gradio's colours, which follow light and dark mode."""

FONTS = ("system-ui", "sans-serif")  # the page loads nothing from elsewhere
CSS = """
  :root { --chart-accent: #c2410c; --readable: #5b6472; }
  .dark { --chart-accent: #fb923c; --readable: #aab1bd; }
  /* Gradio's own grey of notes is too light on white. */
  .gradio-container { --block-info-text-color: var(--readable); --body-text-color-subdued: var(--readable); }
  .gradio-container .main { width: 100%; max-width: 1152px; margin: auto; }
  .summary p { max-width: 100ch; }
  .picture .image-container { padding: 36px 8px 8px; }
  .picture img, .answer img, .examples img { image-rendering: pixelated; }
  .wall { flex-wrap: wrap; } .wall > * { min-width: 190px !important; }
  /* Gradio puts tabs into a menu where these copies of them do not fit; they wrap instead. */
  .tab-container.visually-hidden button { font-size: 0; padding: 0; }
  .tab-container:not(.visually-hidden) { flex-wrap: wrap; height: auto; }
  .tab-wrapper { height: auto; } [role=tab].selected { color: var(--body-text-color) !important; }
  .text table { width: 100%; } .text thead { display: none; }
  .text tr, .text td { border-color: var(--border-color-primary) !important; vertical-align: top; }
  .text:not(.card) td:last-child { white-space: nowrap; }
  .card table { display: table; table-layout: fixed; }
  .card td, .card td code { overflow-wrap: anywhere; white-space: normal; }
  .card th:first-child, .card td:first-child { overflow-wrap: normal; width: 8.5em; min-width: 0; }
  .status { min-height: 24px; }
  .missing, .answer figcaption, .card td:first-child { opacity: 0.75; }
  .examples .grid-wrap { min-height: 0 !important; height: auto; max-height: none; }
  .examples .grid-wrap { padding-top: 34px; } .examples .gallery-item { width: auto; }
  .examples .grid-container { display: flex; flex-wrap: wrap; gap: 8px; }
  .examples .thumbnail-item { aspect-ratio: auto; width: auto; height: auto; }
  .examples .thumbnail-item img { width: auto; height: 56px; }
  .examples .caption-label { position: static; max-width: none; border: none; border-radius: 0; padding: 2px 6px; }
  .answer { color: var(--body-text-color); }
  .answer section { border-top: 1px solid var(--border-color-primary); padding: 12px 0; }
  .answer h3 { font-weight: 600; margin: 0 0 8px; }
  .answer p, .answer figcaption { font-size: 14px; line-height: 1.45; margin: 6px 0; max-width: 80ch; }
  .answer code { display: block; overflow-wrap: anywhere; white-space: pre-wrap; padding: 6px 8px; border-radius: 4px;
                 background: var(--background-fill-secondary); }
  .figures { display: flex; flex-wrap: wrap; gap: 12px; }
  .figures figure { width: 124px; margin: 0; } .figures img { width: 100%; border-radius: 4px; }
  .bar { display: grid; grid-template-columns: 8.5em 1fr 6em; gap: 8px; align-items: center; font-size: 14px;
         margin: 3px 0; max-width: 560px; }
  .bar > span:last-child { text-align: right; font-variant-numeric: tabular-nums; }
  .track { background: var(--background-fill-secondary); height: 12px; border-radius: 3px; overflow: hidden; }
  .track span { display: block; height: 100%; background: var(--chart-accent); }
  .film { overflow: hidden; width: 100%; max-width: 320px; margin: auto; border-radius: 6px; }
  .film img { width: 100%; display: block; transform: translateY(calc(-100% * var(--frame) / var(--frames))); }
"""
