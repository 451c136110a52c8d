// Typeset the equations that arithmatex marks; KaTeX beside this file is the npm package katex 0.16.47 (LICENSE).
document$.subscribe(({ body }) => {
  renderMathInElement(body, {
    delimiters: [
      { left: "\\(", right: "\\)", display: false },
      { left: "\\[", right: "\\]", display: true },
    ],
  })
})
