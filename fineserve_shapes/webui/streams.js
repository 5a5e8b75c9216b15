"use strict";
/* The table of a mix in the LLM tab: a row for each stream, whose box says whether it has lines in the charts.
   tools: how the tab makes elements and writes numbers. changed: called when a box is; whether it was ticked. */
const FineserveStreams = ({ make, number, whole, percent }, changed) => {
  const COLUMNS = [["model", "Model"], ["planned", "Planned"], ["ok", "OK"], ["failed", "Failed"], ["in_flight", "In flight"],
    ["asked_rps", "Asked/s"], ["sent_rps", "Sent/s"], ["lag_p99_ms", "Lag p99"], ["ttft_p50_ms", "TTFT p50"],
    ["ttft_p99_ms", "TTFT p99"], ["tpot_p50_ms", "TPOT p50"], ["good_share", "Good"], ["verdict", "Load as asked"]];
  const RATES = ["asked_rps", "sent_rps", "lag_p99_ms", "ttft_p50_ms", "ttft_p99_ms", "tpot_p50_ms"];
  const ON_AT_FIRST = 8, MOST_ON = 16;
  const toggled = new Map();  // whether streams have lines, by name, where a reader has said so
  const element = make("div", { class: "scroll", role: "region", "aria-label": "Streams", tabindex: "0", hidden: "" });
  let rows = null;

  /* The streams that have lines, [{name, number}]; none where the run is no mix. */
  const shown = () => (rows ? rows.streams : []).map(({ name }, place) => ({ name, number: place }))
    .filter((one) => toggled.get(one.name) ?? one.number < ON_AT_FIRST).slice(0, MOST_ON);

  function text(row, key) {
    const value = row[key];
    if (key === "model") return value ?? "";
    if (key === "verdict") return FineserveStreams.VERDICTS[value] || "–";
    if (key === "good_share") return value === null ? "–" : percent(value);
    return RATES.includes(key) ? number(value) : whole(value);
  }

  /* Rows stay while the run does, and only their text changes: so a box keeps the keyboard's focus. */
  function show(told) {
    rows = told;
    element.hidden = !rows;
    if (!rows) return;
    const all = [{ name: "total", ...rows.total }, ...rows.streams], names = all.map(({ name }) => name).join(" ");
    if (element.dataset.names !== names) {
      element.dataset.names = names;
      element.replaceChildren(table(all));
    }
    const on = shown().map(({ name }) => name);
    for (const [place, line] of [...element.querySelectorAll("tbody tr")].entries()) {
      const box = line.querySelector("input");
      if (box) {
        box.checked = on.includes(all[place].name);
        box.disabled = !box.checked && on.length >= MOST_ON;
      }
      for (const [key] of COLUMNS) fill(line.querySelector(`[data-column="${key}"]`), all[place], key);
    }
  }

  function fill(cell, row, key) {
    const written = text(row, key);
    if (cell.textContent !== written) cell.textContent = written;
    if (key === "model") cell.title = written;
    if (key === "verdict") {
      cell.title = row.reasons.join("; ");
      cell.className = `verdict ${row.verdict || ""}`;
    }
  }

  const table = (all) => make("table", { class: "streams" },
    make("caption", {}, "Streams, latencies in ms: those ticked are drawn"),
    make("thead", {}, make("tr", {}, make("th", { scope: "col", class: "left" }, "Stream"),
      ...COLUMNS.map(([key, title]) => make("th", { scope: "col", class: key === "model" ? "left" : "" }, title)))),
    make("tbody", {}, ...all.map(({ name }, place) => make("tr", { "data-stream": name }, head(name, place - 1),
      ...COLUMNS.map(([key]) => make("td", { "data-column": key, class: key === "model" ? "left model" : "" }))))));

  function head(name, place) {
    const swatch = make("span", { class: "swatch" });
    if (place < 0) {
      swatch.style.background = "currentColor";
      return make("th", { scope: "row" }, swatch, "All");
    }
    swatch.style.background = FineserveCharts.streamColour(place);
    const box = make("input", { type: "checkbox" });
    box.addEventListener("change", () => {
      toggled.set(name, box.checked);
      show(rows);
      changed(box.checked);
    });
    return make("th", { scope: "row" }, make("label", {}, box, swatch, name));
  }

  return { element, shown, show };
};
FineserveStreams.VERDICTS = { valid: "✓ valid", invalid: "✗ invalid" };
