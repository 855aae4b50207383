// A panel for an allele that changes residues: where they lie in the sequence, what each model expects there, and the
// structure. Panels are built when their row is opened. One 3D viewer serves all of them, since browsers grant a page few
// WebGL contexts: the panel that loses it keeps a still picture.
const seqpriorPanels = (() => {
  const { element, svg, figure, grouped, ORDER, FOLDS, residueMap, swatches, confidenceKey, foldKey } = seqprior;
  const island = JSON.parse(document.getElementById("panels").textContent);
  const place = (letter) => island.letters.indexOf(letter);
  const COLOURS = ["#0053D6", "#65CBF3", "#FFDB13", "#FF7D45"], PLAIN = "#8fa3ad";
  // LLR of the strongest colour, in whole numbers: all but the most extreme twentieth of what is shown keeps its shade.
  const limitOf = (rows) => {
    const sizes = rows.filter(Boolean).flat().map(Math.abs).sort((a, b) => a - b);
    return Math.max(3, Math.ceil((sizes[Math.floor(0.95 * sizes.length)] ?? 0) / island.scale));
  };
  const words = (method) => method.replaceAll("_", " ");
  const one = (list, singular) => `${grouped(list)} ${singular}${list === 1 ? "" : "s"}`;

  // --- sequence and heat ---
  const neighbourhood = (panel) => {
    const box = element("figure", { className: "neighbourhood" });
    const changed = [...panel.ref || "-"].map((_, i) => [panel.start - panel.first + i, -1])
      .filter(([column]) => column < panel.sequence.length);
    if (panel.ref.length === panel.alt.length)
      changed.push(...[...panel.alt].map((letter, i) => [panel.start - panel.first + i, ORDER.indexOf(letter)])
        .filter(([column, row]) => row >= 0 && column < panel.sequence.length));
    const name = (column) => `${panel.sequence[column]}${grouped(panel.first + column + 1)}`;
    const facts = (column) => [
      FOLDS[panel.sse[column]],
      panel.plddt[column] == null ? "" : `pLDDT ${panel.plddt[column]}`,
      panel.rsa[column] == null ? "" : `${Math.round(100 * panel.rsa[column])} % exposed`,
    ].filter(Boolean).join(", ");
    const draw = (heat) => {
      const limit = heat && limitOf(heat.llr);
      const llr = (column, row) => heat.llr[column] && heat.llr[column][place(ORDER[row])] / island.scale;
      const says = (column, row) => {
        const where = [name(column), facts(column)].filter(Boolean).join(": ");
        if (row < 0 || !heat) return where;
        if (!heat.llr[column]) return `${where}; no score`;
        if (panel.sequence[column] === ORDER[row]) return `${where}; the residue of the reference`;
        return `${name(column)}${ORDER[row]}: LLR ${figure(llr(column, row))}`;
      };
      const { drawing, said } = residueMap({
        ...panel, first: panel.first + 1, changed, says, wide: true, heat: Boolean(heat), limit,
        value: heat ? llr : null,
        label: `Residues ${grouped(panel.first + 1)} to ${grouped(panel.first + panel.sequence.length)}: ` +
          `${panel.sequence}, the changed one is ${name(panel.start - panel.first)}.`,
      });
      const keys = [panel.sse ? foldKey() : "", panel.plddt.length ? confidenceKey() : "",
        heat ? swatches(`LLR −${limit} and less, surprising`, `+${limit} and more, favoured; a dot is the reference`) : ""];
      // The said line lies right under the figure, so that it is seen while pointing.
      return [element("div", { className: "wide-figure" }, drawing), said, ...keys.filter(Boolean)];
    };
    const title = element("figcaption", {}, "Around the residue");
    const body = element("div", {}, ...draw(panel.heat[0]));
    if (panel.heat.length) {
      const choice = element("select");
      choice.setAttribute("aria-label", "Model of the heat map");
      panel.heat.forEach(({ model, method }, i) => choice.append(new Option(`${model}, ${words(method)}`, i)));
      choice.addEventListener("change", () => body.replaceChildren(...draw(panel.heat[choice.value])));
      title.append(panel.heat.length > 1 ? choice : element("small", { textContent: choice.options[0].text }));
    }
    box.append(title, body);
    return box;
  };

  // --- profiles ---
  const profile = ({ model, method, residue, ref, alt, logp }) => {
    const W = 15, HIGH = 56, TOP = 4;
    const share = (letter) => Math.exp(logp[place(letter)] / island.scale);
    const bars = [...ORDER].flatMap((letter, i) => {
      const height = Math.max(HIGH * share(letter), 0.6);
      const kind = letter === ref ? "ref" : letter === alt ? "alt" : "";
      const bar = svg("rect", { class: `bar ${kind}`, x: i * W + 1.5, y: TOP + HIGH - height, width: W - 3, height });
      bar.append(svg("title", {}, `${letter}: p = ${figure(share(letter))}`));
      return [bar, svg("text", { class: `letter ${kind}`, x: i * W + W / 2, y: TOP + HIGH + 13, "text-anchor": "middle" }, letter)];
    });
    const level = TOP + HIGH * 0.95;
    const said = [ref, alt].filter(Boolean).map((letter) => `p(${letter}) = ${figure(share(letter))}`).join(", ");
    const drawing = svg("svg", { viewBox: `0 0 ${ORDER.length * W} ${TOP + HIGH + 17}`, class: "profile", role: "img",
      "aria-label": `What ${model} expects at residue ${residue + 1}: ${said}` },
    svg("path", { class: "level", d: `M0 ${level}h${ORDER.length * W}` }), ...bars);
    return element("figure", {}, element("figcaption", {},
      element("span", { textContent: `${model}, residue ${grouped(residue + 1)}` }), element("small", { textContent: words(method) })),
    drawing, element("p", { className: "said", textContent: said }));
  };
  const profiles = (panel) => {
    const box = element("div", { className: "profiles" });
    if (panel.profiles.length) box.append(element("p", { className: "group", textContent: "Profile of the position" }),
      element("p", { className: "hint", textContent: "Probability of each residue by each model; the dashed line is chance, 1 in 20." }),
      ...panel.profiles.map(profile));
    return box;
  };

  // --- tables ---
  const table = (caption, heads, rows) => {
    const cells = (row) => row.map((text, i) => {
      const cell = element(i ? "td" : "th", { textContent: text });
      if (!i) cell.scope = "row";
      return cell;
    });
    const made = element("table", {}, element("caption", { textContent: caption }));
    if (heads.length) made.append(element("thead", {}, element("tr", {}, ...heads.map((text) => {
      const cell = element("th", { textContent: text });
      cell.scope = "col";
      return cell;
    }))));
    made.append(element("tbody", {}, ...rows.map((row) => element("tr", {}, ...cells(row)))));
    return made;
  };
  const tables = (panel) => {
    const box = element("div", { className: "tables" });
    if (panel.scores.length)
      box.append(table("Scores. LLR: lower is more surprising. z: standard deviations more surprising than the mean substitution of this protein.",
        ["Model", "LLR", "z", "Method"], panel.scores.map(({ model, llr, z, method }) => [model, llr, z, method])));
    if (panel.features.length) box.append(table("Substitution and structure.", [], panel.features));
    return box;
  };

  // --- structure ---
  const gl = (() => {
    let known = null; // asked once, when the first structure is shown
    return () => (known ??= typeof $3Dmol !== "undefined" && Boolean(element("canvas").getContext("webgl2")));
  })();
  const stage = element("div", { className: "stage" });
  let viewer = null, shown = null;
  const number = (structure, at) => {
    const run = structure.runs.find(([first, , size]) => first <= at && at < first + size);
    return run ? run[1] + at - run[0] + 1 : null;
  };
  const freeze = () => {
    if (!shown) return;
    const picture = element("img", { src: viewer.pngURI(), alt: shown.label });
    const again = element("button", { type: "button", textContent: "Turn it" });
    const { box } = shown;
    again.addEventListener("click", () => { show(box); stage.focus(); });
    shown = null;
    box.querySelector(".view").replaceChildren(picture, again);
  };
  const show = (box) => {
    if (!gl()) {
      box.querySelector(".view").replaceChildren(element("p", { className: "hint",
        textContent: "This browser draws no 3D (WebGL 2 is off), so the structure cannot be shown; its neighbours are listed below." }));
      box.querySelector(".buttons").hidden = true;
      return;
    }
    if (shown?.box === box) return;
    freeze();
    const panel = box.panel, structure = island.structures[panel.structure];
    box.querySelector(".view").replaceChildren(stage);
    viewer ??= start();
    viewer.spin(false);
    viewer.resize();
    viewer.removeAllLabels();
    viewer.removeAllModels();
    const model = viewer.addModel(structure.data, "bcif", { noComputeSecondaryStructure: true, altLoc: "*" });
    const fold = { H: "h", E: "s" };
    const sse = (at) => structure.sse[at] ?? "";
    for (const atom of model.selectedAtoms({})) {
      const at = atom.resi - 1;
      atom.ss = fold[sse(at)] ?? "c";
      atom.ssbegin = atom.ss !== "c" && sse(at - 1) !== sse(at);
      atom.ssend = atom.ss !== "c" && sse(at + 1) !== sse(at);
    }
    const confidence = ({ b }) => (b < 0 ? PLAIN : COLOURS[b >= 90 ? 0 : b >= 70 ? 1 : b >= 50 ? 2 : 3]);
    const own = panel.place.map((at) => at + 1), near = panel.near.map(([at]) => at + 1);
    const elements = (carbon) => ({ prop: "elem", map: { C: carbon, N: "#3050f8", O: "#e0331f", S: "#c9a400", SE: "#c9a400" } });
    model.setStyle({}, { cartoon: { colorfunc: confidence, arrows: true } });
    if (near.length) model.setStyle({ resi: near }, { stick: { radius: 0.09, colorscheme: elements("#9aa0a6") } }, true);
    model.setStyle({ resi: own }, { stick: { radius: 0.22, colorscheme: elements("#d4127e") },
      sphere: { scale: 0.24, colorscheme: elements("#d4127e") } }, true);
    const names = new Map(panel.near.map(([at, text]) => [at + 1, text]));
    const named = (atom) => names.get(atom.resi) ?? `${atom.resn} ${number(structure, atom.resi - 1) ?? "outside of the protein"}`;
    viewer.addLabel(panel.ref.length === 1 ? `${panel.ref}${panel.start + 1}` : String(panel.start + 1), {
      fontSize: 13, fontColor: "white", backgroundColor: "#7d0a4a", backgroundOpacity: 0.85, inFront: true, borderThickness: 0,
      screenOffset: { x: 14, y: -14 },
    }, { resi: own[0], atom: "CA" });
    const said = box.querySelector(".said");
    viewer.setHoverable({}, true, (atom) => { said.textContent = named(atom) + (atom.b < 0 ? "" : `, pLDDT ${atom.b}`); },
      () => { said.textContent = "\u00a0"; });
    const close = () => { viewer.zoomTo({ resi: [...own, ...near] }); viewer.zoom(0.85); viewer.render(); };
    const whole = () => { viewer.zoomTo(); viewer.render(); };
    close();
    shown = { box, close, whole, label: box.label };
    stage.setAttribute("aria-label", `${box.label} Arrow keys turn it, plus and minus zoom.`);
  };
  const start = () => {
    stage.tabIndex = 0;
    stage.setAttribute("role", "img");
    const made = $3Dmol.createViewer(stage, { backgroundAlpha: 0, antialias: true, cartoonQuality: 7 });
    // Scrolling the page past the picture must not zoom it: only a picture that was clicked or focused takes the wheel.
    stage.addEventListener("wheel", (event) => { if (document.activeElement !== stage) event.stopPropagation(); }, true);
    stage.addEventListener("pointerdown", () => stage.focus({ preventScroll: true }));
    const TURNS = { ArrowLeft: [-10, "y"], ArrowRight: [10, "y"], ArrowUp: [-10, "x"], ArrowDown: [10, "x"] };
    stage.addEventListener("keydown", (event) => {
      if (TURNS[event.key]) made.rotate(...TURNS[event.key]);
      else if (event.key === "+" || event.key === "=") made.zoom(1.15);
      else if (event.key === "-") made.zoom(1 / 1.15);
      else return;
      event.preventDefault();
      made.render();
    });
    return made;
  };
  const structureBox = (panel) => {
    const box = element("figure", { className: "structure" });
    if (panel.structure === null) {
      if (panel.note) box.append(element("p", { className: "hint", textContent: panel.note }));
    } else {
      const structure = island.structures[panel.structure];
      box.panel = panel;
      box.label = `Structure around residue ${panel.start + 1}: ${structure.about}.`;
      const button = (text, act) => {
        const made = element("button", { type: "button", textContent: text });
        made.addEventListener("click", () => { show(box); act(); });
        return made;
      };
      const spin = element("button", { type: "button", textContent: "Spin" });
      spin.setAttribute("aria-pressed", "false");
      spin.addEventListener("click", () => {
        show(box);
        const on = spin.getAttribute("aria-pressed") === "false";
        viewer?.spin(on ? "y" : false);
        spin.setAttribute("aria-pressed", String(on));
      });
      const said = element("p", { className: "said", textContent: "\u00a0" });
      box.append(element("figcaption", {}, "Structure ", element("small", { textContent: structure.about })),
        element("div", { className: "view" }), said,
        element("div", { className: "buttons" }, button("Residue", () => shown?.close()), button("Whole protein", () => shown?.whole()), spin),
        structure.confident ? confidenceKey() : element("p", { className: "key", textContent: "This structure has no pLDDT." }),
        element("p", { className: "key", textContent: "The changed residue is pink; residues within 5 Å of it are thin sticks." }));
    }
    if (panel.near.length) box.append(element("p", { className: "near" },
      element("b", { textContent: `${one(panel.near.length, "residue")} within 5 Å: ` }), panel.near.map(([, name]) => name).join(", ")));
    return box;
  };

  // --- the panel ---
  const build = (id) => {
    if (!Object.hasOwn(island.panels, id)) return null;
    const panel = island.panels[id];
    const where = [panel.genes.replaceAll(",", ", "), panel.transcript, panel.uniprot && `UniProt ${panel.uniprot}`,
      `residue ${grouped(panel.start + 1)} of ${grouped(panel.length)}`].filter(Boolean).join(" · ");
    const address = element("a", { href: "#" + id, textContent: "link to this panel" });
    const head = element("div", { className: "head" },
      element("h3", { textContent: panel.change || "Changed residue" }), element("p", { className: "hint" }, where + " · ", address));
    if (panel.haplotype) head.append(element("p", { className: "hint", textContent: panel.haplotype }));
    const made = element("div", { className: "panel" }, head,
      element("div", { className: "side" }, neighbourhood(panel), profiles(panel), tables(panel)),
      element("div", { className: "side" }, structureBox(panel)));
    made.setAttribute("role", "group");
    made.setAttribute("aria-label", `Evidence on ${panel.change || id}`);
    return made;
  };
  const opened = (row) => {
    const box = row.querySelector(".structure"), strip = row.querySelector(".wide-figure");
    // Where the figure does not fit, the changed residue is what shows.
    if (strip) strip.scrollLeft = (strip.scrollWidth - strip.clientWidth) / 2;
    if (box?.panel) requestAnimationFrame(() => { if (box.isConnected) show(box); });
  };
  // The viewer outlives the panel that is taken away.
  const close = (part) => { if (shown && part.contains(shown.box)) { viewer.spin(false); shown = null; stage.remove(); } };
  return { has: (id) => Object.hasOwn(island.panels, id), build, opened, close };
})();
