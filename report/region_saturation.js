// Heat maps of every change of some regions: lines of about 100 bases, drawn when they come near the screen. Long regions
// have a profile of their worst cases alone.
(() => {
  const { element, svg, figure, grouped, readable, swatches } = seqprior;
  const island = JSON.parse(document.getElementById("saturated").textContent);
  const LETTERS = [...island.letters], W = 9, H = 11, LEFT = 34, MOST = 100, BINS = 9, PROFILE = 44;
  const decoded = (text) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0)), view = new DataView(bytes.buffer);
    return Array.from({ length: bytes.length / 2 }, (_, i) => {
      const number = view.getInt16(2 * i, true);
      return number === island.missing ? null : number / island.scale;
    });
  };
  const least = (values) => values.reduce((low, x) => (x === null || (low !== null && low <= x) ? low : x), null);
  const limitOf = (values) => {
    const sizes = values.filter((x) => x !== null).map(Math.abs).sort((a, b) => a - b);
    return Math.max(3, Math.ceil(sizes[Math.floor(0.95 * sizes.length)] ?? 0));
  };
  const lines = new Map(); // placeholder of a line -> what draws it
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) if (isIntersecting) lines.get(target)?.();
  }, { rootMargin: "600px" });
  const text = (x, y, content, attributes = {}) => svg("text", { x, y, "text-anchor": "middle", class: "tick", ...attributes }, content);

  // A figure: the profile of `worst` on top and, if there are `rows` of names, their cells below.
  //   width: of a column. ticks: [column, words] pairs. letters: of the reference, or empty. value(column, row): LLR or
  //   null. own(column, row): whether it is the reference. says(column, row): text of a cell, row -1 in the profile.
  //   limits: LLR of the strongest colour of each row, the first one's also that of the profile's end.
  const chart = ({ worst, width, ticks, letters, rows, value, own, says, limits, label }) => {
    const columns = worst.length, parts = [], top = 14, base = top + PROFILE;
    for (const [column, words] of ticks) parts.push(text(LEFT + (column + 0.5) * width, top - 4, words));
    const height = (llr) => top + PROFILE * Math.min(1, Math.max(0, -llr) / limits[0]);
    for (const [y, words] of [[top, "0"], [base, `−${limits[0]}`]]) {
      parts.push(svg("path", { class: "grid", d: `M${LEFT} ${y}h${columns * width}` }),
        text(LEFT - 4, y + 4, words, { "text-anchor": "end" }));
    }
    let path = "", open = false;
    worst.forEach((llr, column) => {
      if (llr === null) { open = false; return; }
      path += `${open ? "L" : "M"}${LEFT + column * width} ${height(llr).toFixed(1)}h${width}`;
      open = true;
    });
    parts.push(svg("path", { class: "whisker", fill: "none", d: path }));
    let cells = base + 4;
    if (letters) {
      [...letters].forEach((letter, column) => parts.push(text(LEFT + (column + 0.5) * width, cells + 9, letter)));
      cells += 13;
    }
    const paths = new Map();
    let dots = "";
    rows.forEach((name, row) => {
      const y = cells + row * H;
      parts.push(text(LEFT - 4, y + H - 2, name, { "text-anchor": "end" }));
      for (let column = 0; column < columns; column++) {
        const x = LEFT + column * width, llr = value(column, row);
        if (own(column, row)) { dots += `M${x + width / 2 - 1.6} ${y + H / 2}a1.6 1.6 0 1 0 3.2 0a1.6 1.6 0 1 0 -3.2 0z`; continue; }
        const key = llr === null ? "none" : Math.max(-BINS, Math.min(BINS, Math.round((llr / limits[row]) * BINS)));
        paths.set(key, (paths.get(key) ?? "") + `M${x} ${y}h${width}v${H}h${-width}z`);
      }
    });
    for (const [key, d] of paths) parts.push(svg("path", { class: `heat heat-${key}`, d }));
    parts.push(svg("path", { class: "own", d: dots }));
    const cursor = svg("rect", { class: "cursor", width: Math.max(width, 1), height: H });
    cursor.style.display = "none";
    const whole = LEFT + columns * width + 2, tall = cells + rows.length * H + 3;
    const drawing = svg("svg", { viewBox: `0 0 ${whole} ${tall}`, width: whole, height: tall, class: "residues", role: "img", tabindex: "0",
      "aria-label": `${label} Arrow keys move over the ${rows.length ? "cells" : "columns"}.` }, ...parts, cursor);
    const said = readable(drawing, cursor, { columns, rows: rows.length, left: LEFT, width, height: H, cells,
      above: [top, PROFILE], size: [whole, tall], first: 0, says });
    return [element("div", { className: "wide-figure" }, drawing), said];
  };

  const build = (section, region) => {
    const choice = element("select");
    island.models.forEach((model, i) => choice.append(new Option(model, i)));
    const controls = element("form", { className: "controls" }, element("label", {}, "Model ", choice));
    controls.addEventListener("submit", (event) => event.preventDefault());
    const map = element("div", { className: "lines" }), keys = element("div");
    const draw = () => {
      const model = Number(choice.value);
      for (const line of map.children) { seen.unobserve(line); lines.delete(line); }
      const detailed = region.step === 1;
      const all = decoded((detailed ? region.cells : region.worst)[model]);
      const worst = detailed ? Array.from({ length: region.length }, (_, i) => least(all.slice(4 * i, 4 * i + 4))) : all;
      const deletions = region.deletions.length ? decoded(region.deletions[model]) : null;
      // A deletion may surprise far more than any substitution, so each kind has its own colours.
      const limits = [...Array(LETTERS.length).fill(limitOf(all)), limitOf(deletions ?? [])];
      const place = (column) => region.start + column * region.step + 1;
      const lowest = (llr) => (llr === null ? "no score" : `LLR ${figure(llr)}`);
      const also = (column) => (deletions ? `; deletions: ${lowest(deletions[column])}` : "");
      const parts = [];
      const line = (first, size, options) => {
        const holder = element("div", { className: `line ${detailed ? "cells" : "profile-line"}` });
        const last = Math.min(place(first + size) - 1, region.start + region.length);
        const every = Math.max(1, Math.round(size / 8)), ticks = [];
        for (let column = 0; column < size; column++)
          if (detailed ? place(first + column) % 10 === 0 : column % every === 0) ticks.push([column, grouped(place(first + column))]);
        lines.set(holder, () => {
          seen.unobserve(holder);
          lines.delete(holder);
          holder.replaceChildren(...chart({ worst: worst.slice(first, first + size), ticks, limits,
            label: `${region.chrom}, bases ${grouped(place(first))} to ${grouped(last)}.`, ...options }));
        });
        parts.push(holder);
      };
      if (detailed) {
        const size = Math.max(20, Math.min(MOST, Math.floor((section.clientWidth - LEFT) / W / 10) * 10));
        const rows = deletions ? [...LETTERS, "del"] : LETTERS;
        for (let first = 0; first < region.length; first += size) {
          const letters = region.sequence.slice(first, first + size);
          const value = (column, row) => (row < 4 ? all[4 * (first + column) + row] : deletions[first + column]);
          const own = (column, row) => letters[column] === rows[row];
          const says = (column, row) => {
            const where = `${region.chrom}:${grouped(place(first + column))}`, ref = letters[column];
            if (row < 0) return `${where} ${ref}: worst case ${lowest(worst[first + column])}${also(first + column)}`;
            if (own(column, row)) return `${where} ${ref}, the base of the reference`;
            return `${where} ${row < 4 ? `${ref}>${rows[row]}` : "deleted, worst case"}: ${lowest(value(column, row))}`;
          };
          line(first, letters.length, { width: W, letters, rows, value, own, says });
        }
      } else {
        const width = Math.min(W, (Math.max(section.clientWidth, 320) - LEFT - 4) / worst.length);
        const says = (column) => `${region.chrom}:${grouped(place(column))} to ${grouped(Math.min(place(column + 1) - 1, region.start + region.length))}: ` +
          `worst case ${lowest(worst[column])}${also(column)}`;
        line(0, worst.length, { width, letters: "", rows: [], value: () => null, own: () => false, says });
      }
      map.replaceChildren(...parts);
      parts.forEach((part) => seen.observe(part));
      const key = (limit, what) => swatches(`${what}: LLR −${limit} and less, surprising`, `+${limit} and more, favoured`);
      keys.replaceChildren(...(detailed ? [key(limits[0], "Substitutions (a dot is the reference)"), deletions ? key(limits[4], "Deletions") : ""].filter(Boolean) : []));
    };
    choice.addEventListener("change", draw);
    section.append(controls, keys, map);
    draw();
  };
  document.querySelectorAll("section.saturated").forEach((section, i) => build(section, island.regions[i]));
  // Paper has no screen to come near to.
  addEventListener("beforeprint", () => { for (const draw of [...lines.values()]) draw(); });
})();
