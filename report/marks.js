"use strict";
// What the pages share: numbers and words by the rules of the program that wrote the page, elements, and heat maps of
// residues. Text from data goes in as text nodes only.
const seqprior = (() => {
  const DASH = "–";
  const grouped = (number, digits = 0) =>
    number.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const count = (number) =>
    number === null ? DASH : Number.isInteger(number) ? grouped(number) : grouped(number, 1);
  const raised = (text) => [...text].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c])).join("");
  const figure = (number) => {
    if (number === null) return DASH;
    const size = Math.abs(number);
    let text;
    if (size === 0) text = "0";
    else if (size >= 999.5) text = grouped(number);
    else if (size < 1e-3) {
      const [mantissa, exponent] = number.toExponential(2).split("e");
      text = `${mantissa} × 10${raised(exponent)}`;
    } else text = number.toPrecision(3);
    return text.replace("-", "−");
  };
  const element = (name, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };
  const svg = (name, attributes = {}, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const save = (text, name) => {
    const address = URL.createObjectURL(new Blob([text], { type: "text/tab-separated-values" }));
    element("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  };

  // --- residues ---
  // From the aliphatic to the charged, so that neighbours in a figure are alike.
  const ORDER = "GPAVILMCFYWHKRDENQST";
  const FOLDS = { H: "helix", E: "strand", C: "neither helix nor strand" };
  const grade = (plddt) => (plddt >= 90 ? 0 : plddt >= 70 ? 1 : plddt >= 50 ? 2 : 3);
  const GRADES = ["very high, 90 and more", "high, 70 to 90", "low, 50 to 70", "very low, under 50"];

  // Cells of one colour are one path, so that a figure has a few dozen elements however many cells.
  const BINS = 9;
  const bin = (value, limit) => Math.max(-BINS, Math.min(BINS, Math.round((value / limit) * BINS)));

  // Cells of a drawing, read by pointer and by arrow keys; row -1 is what stands above them. Returns the line that tells
  // what is under the cursor.
  //   width, height: of a cell. cells: where their first row begins. above: top and height of what stands above them.
  //   size: of the drawing. first: column at which the keys begin. says(column, row): words.
  const readable = (drawing, cursor, { columns, rows, left, width, height, cells, above, size, first, says }) => {
    const said = element("p", { className: "said", textContent: "\u00a0" });
    said.setAttribute("role", "status");
    let at = null;
    const point = (column, row) => {
      at = [Math.max(0, Math.min(columns - 1, column)), Math.max(-1, Math.min(rows - 1, row))];
      cursor.style.display = "";
      cursor.setAttribute("x", left + at[0] * width);
      cursor.setAttribute("y", at[1] < 0 ? above[0] : cells + at[1] * height);
      cursor.setAttribute("height", at[1] < 0 ? above[1] : height);
      said.textContent = says(...at);
    };
    const away = () => { at = null; cursor.style.display = "none"; said.textContent = "\u00a0"; };
    drawing.addEventListener("pointermove", (event) => {
      const box = drawing.getBoundingClientRect();
      const x = ((event.clientX - box.left) * size[0]) / box.width, y = ((event.clientY - box.top) * size[1]) / box.height;
      const column = Math.floor((x - left) / width);
      if (column < 0 || column >= columns) away();
      else point(column, y < cells ? -1 : Math.floor((y - cells) / height));
    });
    drawing.addEventListener("pointerleave", away);
    drawing.addEventListener("blur", away);
    const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    drawing.addEventListener("keydown", (event) => {
      const move = MOVES[event.key];
      if (!move) return;
      event.preventDefault();
      const [column, row] = at ?? [first, -1];
      point(column + (at ? move[0] : 0), row + (at ? move[1] : 0));
    });
    return said;
  };

  // A figure of residues along x, the 20 amino acids down, and strips of features above. All is lower-case `column`
  // (0-based in the figure) and `row` (0-based in ORDER).
  //   sequence: its letters. first: number of the first residue, 1-based. sse, plddt, rsa: strips, or empty.
  //   value(column, row): negative for what surprises, null for none. limit: value of the strongest colour.
  //   says(column, row): text of a cell; row is -1 above the cells. changed: [column, row] pairs that are outlined.
  //   wide: whether letters fit. heat: whether there are cells.
  const residueMap = ({ sequence, first, sse, plddt, rsa, value, limit, says, changed = [], wide, heat, label }) => {
    const W = wide ? 20 : 9, H = wide ? 12 : 10, LEFT = wide ? 66 : 26, columns = sequence.length;
    const parts = [];
    let top = 12;
    const text = (x, y, content, attributes = {}) =>
      parts.push(svg("text", { x, y, "text-anchor": "middle", ...attributes }, content));
    const name = (y, content) => { if (wide) text(LEFT - 8, y, content, { "text-anchor": "end", class: "name" }); };
    const middle = (column) => LEFT + column * W + W / 2;
    const step = wide ? 5 : 10;
    const marked = new Set(changed.filter(([, row]) => row < 0).map(([at]) => at));
    for (let column = 0; column < columns; column++)
      if (marked.has(column) || ((first + column) % step === 0 && !marked.has(column - 1) && !marked.has(column + 1)))
        text(middle(column), top - 2, String(first + column), { class: "tick" });
    top += 3;
    if (wide) {
      for (let column = 0; column < columns; column++)
        text(middle(column), top + 11, sequence[column], { class: marked.has(column) ? "letter changed" : "letter" });
      top += 18;
    }
    if (sse) {
      name(top + 9, "structure");
      let path = "";
      for (let column = 0; column < columns;) {
        let end = column;
        while (end < columns && sse[end] === sse[column]) end++;
        const x = LEFT + column * W, width = (end - column) * W;
        if (sse[column] === "H") parts.push(svg("rect", { class: "helix", x, y: top + 1, width, height: 9, rx: 4 }));
        else if (sse[column] === "E") {
          const tip = Math.min(W * 1.2, width);
          parts.push(svg("path", { class: "strand",
            d: `M${x} ${top + 3}H${x + width - tip}V${top}L${x + width} ${top + 5.5}L${x + width - tip} ${top + 11}V${top + 8}H${x}Z` }));
        } else if (sse[column] === "C") path += `M${x} ${top + 5.5}h${width}`;
        column = end;
      }
      if (path) parts.push(svg("path", { class: "coil", d: path }));
      top += 15;
    }
    if (plddt.length) {
      name(top + 8, "pLDDT");
      const paths = ["", "", "", ""];
      plddt.forEach((score, column) => {
        if (score !== null) paths[grade(score)] += `M${LEFT + column * W} ${top}h${W}v9h${-W}z`;
      });
      paths.forEach((d, i) => { if (d) parts.push(svg("path", { class: `plddt-${i}`, d })); });
      top += 13;
    }
    if (rsa.length) {
      name(top + 13, "exposure");
      let d = "";
      rsa.forEach((share, column) => {
        const height = 16 * Math.min(share ?? 0, 1);
        if (height > 0) d += `M${LEFT + column * W + 0.5} ${top + 16}v${-height}h${W - 1}v${height}z`;
      });
      parts.push(svg("path", { class: "exposure", d }));
      parts.push(svg("path", { class: "coil", d: `M${LEFT} ${top + 16.5}h${columns * W}` }));
      top += 22;
    }
    const cells = top;
    if (heat) {
      const paths = new Map();
      let own = "";
      for (let row = 0; row < ORDER.length; row++) {
        text(LEFT - 8, cells + row * H + H - 2, ORDER[row], { class: "tick" });
        for (let column = 0; column < columns; column++) {
          const x = LEFT + column * W, y = cells + row * H;
          if (sequence[column] === ORDER[row]) own += `M${x + W / 2 - 1.6} ${y + H / 2}a1.6 1.6 0 1 0 3.2 0a1.6 1.6 0 1 0 -3.2 0z`;
          const number = value(column, row);
          const key = number === null ? "none" : bin(number, limit);
          paths.set(key, (paths.get(key) ?? "") + `M${x} ${y}h${W}v${H}h${-W}z`);
        }
      }
      const drawn = [...paths].map(([key, d]) => svg("path", { class: `heat heat-${key}`, d }));
      parts.push(...drawn, svg("path", { class: "own", d: own }));
      for (const [column, row] of changed)
        if (row >= 0) parts.push(svg("rect", { class: "outline", x: LEFT + column * W, y: cells + row * H, width: W, height: H }));
    }
    const bottom = heat ? cells + ORDER.length * H : top;
    for (const column of marked)
      parts.push(svg("rect", { class: "column", x: LEFT + column * W, y: 14, width: W, height: bottom - 14 }));
    const cursor = svg("rect", { class: "cursor", width: W, height: H });
    cursor.style.display = "none";
    const width = LEFT + columns * W + 2, height = bottom + 3;
    const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "residues", role: "img",
      tabindex: "0", "aria-label": `${label} Arrow keys move over the cells.` }, ...parts, cursor);
    const said = readable(drawing, cursor, { columns, rows: heat ? ORDER.length : 0, left: LEFT, width: W, height: H, cells,
      above: [14, cells - 16], size: [width, height], first: changed[0]?.[0] ?? 0, says });
    return { drawing, said };
  };

  const sample = (width, mark, words) => element("span", {},
    svg("svg", { width, height: 11, "aria-hidden": "true" }, mark), " " + words);
  const swatches = (low, high) => {
    const SIZE = 11, cells = [];
    for (let key = -BINS; key <= BINS; key++)
      cells.push(svg("rect", { class: `heat heat-${key}`, x: (key + BINS) * SIZE, width: SIZE, height: 10 }));
    return element("p", { className: "key" }, element("span", { textContent: low }),
      sample((2 * BINS + 1) * SIZE, svg("g", {}, ...cells), high));
  };
  const confidenceKey = () => element("p", { className: "key" }, element("span", { textContent: "pLDDT" }),
    ...GRADES.map((words, i) => sample(11, svg("rect", { class: `plddt-${i}`, width: 11, height: 10 }), words)));
  const foldKey = () => element("p", { className: "key" }, element("span", { textContent: "structure" }),
    sample(22, svg("rect", { class: "helix", y: 1, width: 22, height: 9, rx: 4 }), "helix"),
    sample(22, svg("path", { class: "strand", d: "M0 3H12V0L22 5.5L12 11V8H0Z" }), "strand"),
    sample(22, svg("path", { class: "coil", d: "M0 5.5h22" }), "neither"), element("span", { textContent: "exposure: bars, share of the surface that water reaches" }));
  return { DASH, grouped, count, figure, element, svg, save, ORDER, FOLDS, readable, residueMap, swatches, confidenceKey, foldKey };
})();
