// The ranked table: sort, search, filter, page, evidence of a row, download. Rows live in a JSON island; the document
// never holds more than one page of them. Text from data goes in as text nodes only.
(() => {
  const island = JSON.parse(document.getElementById("rows").textContent);
  const table = document.getElementById("ranked");
  if (!table) return;
  const $ = (id) => document.getElementById(id);
  const { DASH, grouped, count, figure, element, save } = seqprior;
  const panels = typeof seqpriorPanels === "undefined" ? null : seqpriorPanels;
  const LONG = 12, LONG_RESIDUES = 4;
  const columns = new Map(island.columns.map((column) => [column.key, column]));
  const body = table.tBodies[0];
  const state = { key: "rank", down: false, page: 0, order: [] };

  const value = (key, row) => {
    const data = island.data[key];
    return data.codes ? data.levels[data.codes[row]] : data.values[row];
  };

  // --- numbers and words, by the rules of the program that wrote the page ---
  const term = (text) =>
    text ? text.split("&").map((part) => part.replace(/_variant$/, "").replaceAll("_", " ")).join(", ") : DASH;
  const short = (allele) => {
    const letters = [...allele];
    return letters.length <= LONG ? allele : `${letters.slice(0, LONG / 2).join("")}… (${grouped(letters.length)} bp)`;
  };
  const label = (row) =>
    `${value("chrom", row)}:${count(value("pos", row))} ${short(value("ref", row))}>${short(value("alt", row))}`;
  const residue = (row) => {
    const cut = (text) => (text.length <= LONG_RESIDUES ? text : `${text.slice(0, LONG_RESIDUES)}…`);
    const number = value("residue", row), ref = cut(value("residue_ref", row));
    const effect = columns.has("protein_effect") ? value("protein_effect", row) : "";
    const missing = effect.includes("frameshift") ? "fs" : "del";
    return number === null ? DASH : `${ref}${number}${ref ? "" : "ins"}${cut(value("residue_alt", row)) || missing}`;
  };
  const written = (key, row) => {
    const kind = columns.get(key).kind, x = value(key, row);
    if (kind === "residue") return residue(row);
    return kind === "number" ? figure(x) : kind === "count" ? count(x) : kind === "term" ? term(x) : x || DASH;
  };
  const note = (key, row) => {
    if (key === "score") {
      const low = value("score_low", row), high = value("score_high", row);
      return low === null || high === null ? "" : `${figure(low)} to ${figure(high)}`;
    }
    if (key === "protein_best") return value("protein_best_model", row);
    if (key === "protein_reason" || key === "structure_reason") {
      const why = value(key, row);
      return Object.hasOwn(island.protein_reasons, why) ? island.protein_reasons[why] : why;
    }
    const reason = key === "status" ? value("reason", row) : "";
    return Object.hasOwn(island.reasons, reason) ? island.reasons[reason] : reason;
  };

  // --- building the page of rows ---
  const evidence = (row, width) => {
    const list = element("dl"), proteins = element("dl");
    const touches = columns.has("protein_status") && value("protein_status", row);
    for (const { key, label: name, shown, protein, derived } of island.columns) {
      if (shown || derived || (protein && !touches)) continue;
      const reason = key === "reason" ? "status" : key.endsWith("_reason") ? key : "";
      const text = reason ? note(reason, row) || DASH : written(key, row);
      if (protein && text === DASH) continue;
      const pair = element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: text }));
      (protein ? proteins : list).append(pair);
    }
    const cell = element("td", { colSpan: width });
    const panel = panels?.build(value("variant_id", row));
    if (panel) cell.append(panel);
    cell.append(list);
    if (touches) cell.append(element("p", { className: "group", textContent: "Protein" }), proteins);
    return element("tr", { className: "evidence" }, cell);
  };
  const variantCell = (row) => {
    const button = element("button", { type: "button", textContent: label(row) });
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => {
      const line = button.closest("tr"), open = button.getAttribute("aria-expanded") === "true";
      if (open) {
        panels?.close(line.nextElementSibling);
        line.nextElementSibling.remove();
      } else {
        line.after(evidence(row, line.cells.length));
        panels?.opened(line.nextElementSibling);
      }
      button.setAttribute("aria-expanded", String(!open));
    });
    const cell = element("th", { className: "variant" }, button);
    if (panels?.has(value("variant_id", row))) cell.append(" ", element("small", { className: "has-panel", textContent: "residue panel" }));
    cell.scope = "row";
    return cell;
  };
  const rowOf = (row) => {
    const line = element("tr");
    for (const { key, kind, shown } of island.columns) {
      if (!shown) continue;
      const cell = element("td", { textContent: written(key, row) });
      if (kind === "number" || kind === "count") cell.className = "num";
      const small = note(key, row);
      if (small) cell.append(" ", element("small", { textContent: small }));
      line.append(cell);
      if (key === "rank") line.append(variantCell(row));
    }
    return line;
  };
  const draw = () => {
    const total = state.order.length, first = state.page * island.page;
    const rows = state.order.slice(first, first + island.page);
    panels?.close(body);
    body.replaceChildren(...rows.map(rowOf));
    if (!total) body.append(element("tr", {}, element("td", { colSpan: 99, className: "quiet", textContent: "No allele matches." })));
    $("shown").textContent = total
      ? `Rows ${grouped(first + 1)} to ${grouped(first + rows.length)} of ${grouped(total)}` +
        (total < island.rows ? ` that match, of ${grouped(island.rows)}` : "")
      : `None of ${grouped(island.rows)} rows matches`;
    const pages = Math.max(1, Math.ceil(total / island.page));
    $("pages").hidden = pages === 1;
    $("page").textContent = `Page ${grouped(state.page + 1)} of ${grouped(pages)}`;
    $("previous").disabled = state.page === 0;
    $("next").disabled = state.page === pages - 1;
  };

  // --- order and choice ---
  const collator = new Intl.Collator("en", { numeric: true });
  const sortKeys = new Map();
  const places = (key) => {
    // Text as its place in the collated list of distinct values: comparing numbers is far faster. Missing is null.
    if (!sortKeys.has(key)) {
      const data = island.data[key];
      if (["number", "count", "residue"].includes(columns.get(key).kind)) sortKeys.set(key, data.values);
      else {
        const levels = data.codes ? data.levels : [...new Set(data.values)];
        const place = new Map([...levels].sort(collator.compare).map((text, i) => [text, text === "" ? null : i]));
        sortKeys.set(key, Array.from({ length: island.rows }, (_, row) => place.get(value(key, row))));
      }
    }
    return sortKeys.get(key);
  };
  const compare = (keys, sign) => {
    const lists = keys.map(places);
    return (a, b) => {
      for (const list of lists) {
        const x = list[a], y = list[b];
        if (x === y) continue;
        if (x === null) return 1;
        if (y === null) return -1;
        return sign * (x - y);
      }
      return a - b;
    };
  };
  let haystack = null;
  const searchable = () => {
    const keys = ["variant_id", "gene", "transcript", "consequence", "hgvs_p", "status", "reason"]
      .concat(["uniprot", "protein_hgvs_p"].filter((key) => columns.has(key)));
    haystack ??= Array.from({ length: island.rows }, (_, row) =>
      [`${value("chrom", row)}:${value("pos", row)} ${value("ref", row)}>${value("alt", row)}`]
        .concat(keys.map((key) => value(key, row) + " " + (key === "consequence" ? term(value(key, row)) : "")))
        .join("\n").toLowerCase());
    return haystack;
  };
  const choose = () => {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean)
      .map((word) => word.replace(/(\d),(?=\d{3})/g, "$1"));
    const texts = words.length ? searchable() : null;
    const consequence = $("consequence").value, status = $("status").value;
    const kept = [];
    for (let row = 0; row < island.rows; row++) {
      if (consequence && value("consequence", row) !== consequence) continue;
      if (status && value("status", row) !== status) continue;
      if (texts && !words.every((word) => texts[row].includes(word))) continue;
      kept.push(row);
    }
    const keys = state.key === "variant" ? ["chrom", "pos", "ref", "alt"] : [state.key];
    state.order = kept.sort(compare(keys, state.down ? -1 : 1));
    state.page = 0;
    draw();
  };

  // --- download ---
  const cellOfTsv = (x, kind) => {
    if (x === null || x === undefined) return "";
    if (kind === "number" || kind === "count" || kind === "residue") return String(x);
    // A spreadsheet would run text that starts like a formula.
    const text = String(x).replace(/[\t\r\n]+/g, " ");
    return /^[=+@-]./.test(text) ? `'${text}` : text;
  };
  $("download").addEventListener("click", () => {
    const kept = island.columns.filter(({ derived }) => !derived);
    const lines = [kept.map((column) => cellOfTsv(column.key, "text")).join("\t")];
    for (const row of state.order)
      lines.push(kept.map(({ key, kind }) => cellOfTsv(value(key, row), kind)).join("\t"));
    save(lines.join("\n") + "\n", "ranked-shown.tsv");
  });

  // --- wiring ---
  for (const head of table.tHead.rows[0].cells) {
    const button = element("button", { type: "button", textContent: head.textContent });
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const key = head.dataset.key, numeric = columns.get(key)?.kind === "number";
      // The first click brings what readers look for to the top: high scores, but low (surprising) LLRs.
      state.down = state.key === key ? !state.down : numeric && !/llr(_|\.|$)/.test(key);
      state.key = key;
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      choose();
    });
  }
  let waiting = 0;
  $("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(choose, 120); });
  $("consequence").addEventListener("change", choose);
  $("status").addEventListener("change", choose);
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  const turn = (by) => () => { state.page += by; draw(); table.closest(".scroll").scrollIntoView({ block: "nearest" }); };
  $("previous").addEventListener("click", turn(-1));
  $("next").addEventListener("click", turn(1));
  $("controls").hidden = false;
  choose();

  // --- addresses of rows: #chr1-1234-A-G opens that allele ---
  const visit = () => {
    if (!location.hash || document.getElementById(location.hash.slice(1))) return;
    const leads = (row) => new URL("#" + value("variant_id", row), location).hash === location.hash;
    const row = Array.from({ length: island.rows }, (_, i) => i).find(leads);
    if (row === undefined) return;
    if (!state.order.includes(row)) {
      for (const id of ["search", "consequence", "status"]) $(id).value = "";
      choose();
    }
    const at = state.order.indexOf(row), page = Math.floor(at / island.page);
    if (page !== state.page) {
      state.page = page;
      draw();
    }
    const own = [...body.rows].filter((line) => !line.classList.contains("evidence"));
    const button = own[at % island.page].querySelector("button");
    if (button.getAttribute("aria-expanded") === "false") button.click();
    button.scrollIntoView({ block: "start" });
    button.focus({ preventScroll: true });
  };
  addEventListener("hashchange", visit);
  visit();
})();
