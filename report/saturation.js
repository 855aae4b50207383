// Heat maps of every substitution: lines of about 100 residues, drawn when they come near the screen.
(() => {
  const { element, figure, grouped, save, ORDER, FOLDS, residueMap, swatches, confidenceKey, foldKey } = seqprior;
  const island = JSON.parse(document.getElementById("saturation").textContent);
  const CELL = 9, LEFT = 28, MOST = 100, Z_LIMIT = 3;
  const place = new Map([...island.letters].map((letter, i) => [letter, i]));
  const decoded = (text) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0)), view = new DataView(bytes.buffer);
    return Int16Array.from({ length: bytes.length / 2 }, (_, i) => view.getInt16(2 * i, true));
  };
  const lines = new Map(); // placeholder of a line -> what draws it
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) if (isIntersecting) lines.get(target)?.();
  }, { rootMargin: "600px" });

  const build = (section, protein) => {
    const models = protein.models.map((model) => ({ ...model, values: null }));
    const llrOf = (model, residue, letter) => {
      model.values ??= decoded(model.llr);
      const number = model.values[residue * island.letters.length + place.get(letter)];
      return number === island.missing ? null : number / island.scale;
    };
    const zOf = (model, residue, letter) => {
      const llr = llrOf(model, residue, letter);
      return llr === null || model.sd === null ? null : (model.mean - llr) / model.sd;
    };
    const limitOf = (model) => {
      model.values ??= decoded(model.llr);
      const sizes = model.values.filter((x) => x !== island.missing).map(Math.abs).sort();
      return Math.max(3, Math.ceil((sizes[Math.floor(0.95 * sizes.length)] ?? 0) / island.scale));
    };
    if (!models.length) section.append(element("p", { textContent: "No model scored this protein." }));
    if (!models.length && !protein.sse) return;  // nothing to draw
    const choice = element("select"), measure = element("select");
    models.forEach(({ model, kind, methods }, i) => choice.append(new Option(`${model} (${[kind, ...methods].join(", ").replaceAll("_", " ")})`, i)));
    measure.append(new Option("z", "z"), new Option("LLR", "llr"));
    const download = element("button", { type: "button", textContent: "Download as TSV" });
    const controls = element("form", { className: "controls" }, element("label", {}, "Model ", choice),
      element("label", {}, "Measure ", measure), download);
    controls.addEventListener("submit", (event) => event.preventDefault());
    const map = element("div", { className: "lines" }), keys = element("div");
    const draw = () => {
      const model = models[Number(choice.value)], byZ = measure.value === "z";
      for (const line of map.children) { seen.unobserve(line); lines.delete(line); }
      const limit = model && (byZ ? Z_LIMIT : limitOf(model));
      const size = Math.max(20, Math.min(MOST, Math.floor((section.clientWidth - LEFT) / CELL / 10) * 10));
      const parts = [];
      for (let first = 0; first < protein.sequence.length; first += size) {
        const sequence = protein.sequence.slice(first, first + size);
        const holder = element("div", { className: "line" });
        const says = (column, row) => {
          const residue = first + column, ref = sequence[column];
          const facts = [FOLDS[protein.sse[residue]], protein.plddt[residue] == null ? "" : `pLDDT ${protein.plddt[residue]}`,
            protein.rsa[residue] == null ? "" : `${Math.round(100 * protein.rsa[residue])} % exposed`].filter(Boolean).join(", ");
          const where = `${ref}${grouped(residue + 1)}${facts ? ": " + facts : ""}`;
          if (row < 0 || !model) return where;
          if (ORDER[row] === ref) return `${where}; the residue of the reference`;
          const llr = llrOf(model, residue, ORDER[row]);
          if (llr === null) return `${where}; no score`;
          return `${ref}${grouped(residue + 1)}${ORDER[row]}: LLR ${figure(llr)}, z ${figure(zOf(model, residue, ORDER[row]))}${facts ? "; " + facts : ""}`;
        };
        const value = (column, row) => {
          if (!byZ) return llrOf(model, first + column, ORDER[row]);
          // The residue itself is no substitution, so it has no z; its cell bears the dot.
          const z = sequence[column] === ORDER[row] ? 0 : zOf(model, first + column, ORDER[row]);
          return z === null ? null : -z;
        };
        const cut = (strip) => strip.slice(first, first + size);
        lines.set(holder, () => {
          seen.unobserve(holder);
          lines.delete(holder);
          const { drawing, said } = residueMap({ sequence, first: first + 1, sse: cut(protein.sse), plddt: cut(protein.plddt),
            rsa: cut(protein.rsa), value, limit, says, wide: false, heat: Boolean(model),
            label: `Residues ${grouped(first + 1)} to ${grouped(first + sequence.length)}.` });
          holder.replaceChildren(element("div", { className: "wide-figure" }, drawing), said);
        });
        parts.push(holder);
      }
      map.replaceChildren(...parts);
      parts.forEach((line) => seen.observe(line));
      keys.replaceChildren(...[
        !model ? "" : byZ ? swatches(`z +${Z_LIMIT} and more, surprising`, `−${Z_LIMIT} and less, expected; a dot is the reference`)
          : swatches(`LLR −${limit} and less, surprising`, `+${limit} and more, favoured; a dot is the reference`),
        protein.sse ? foldKey() : "", protein.plddt.length ? confidenceKey() : "",
      ].filter(Boolean));
    };
    choice.addEventListener("change", draw);
    measure.addEventListener("change", draw);
    download.addEventListener("click", () => {
      const clean = (text) => { const plain = String(text).replace(/[\t\r\n]+/g, " "); return /^[=+@-]/.test(plain) ? `'${plain}` : plain; };
      const head = ["gene", "residue", "ref", "alt", ...models.flatMap(({ kind, model }) => [`${kind}_llr.${model}`, `${kind}_z.${model}`]),
        "plddt", "relative_solvent_accessibility", "secondary_structure"].map(clean);
      const text = [head.join("\t")];
      [...protein.sequence].forEach((ref, residue) => {
        for (const alt of island.letters) {
          if (alt === ref) continue;
          const scores = models.flatMap((model) => {
            const z = zOf(model, residue, alt);
            return [llrOf(model, residue, alt) ?? "", z === null ? "" : z.toFixed(3)];
          });
          text.push([clean(protein.genes), residue + 1, ref, alt, ...scores, protein.plddt[residue] ?? "", protein.rsa[residue] ?? "",
            clean(protein.sse[residue] ?? "").replace(/^'?-$/, "")].join("\t"));
        }
      });
      save(text.join("\n") + "\n", `saturation-${(protein.genes || protein.protein).replace(/[^\w.-]+/g, "-")}.tsv`);
    });
    if (models.length) section.append(controls);
    section.append(keys, map);
    draw();
  };
  document.querySelectorAll("section.saturation").forEach((section, i) => build(section, island.proteins[i]));
  // Paper has no screen to come near to.
  addEventListener("beforeprint", () => { for (const draw of [...lines.values()]) draw(); });
})();
