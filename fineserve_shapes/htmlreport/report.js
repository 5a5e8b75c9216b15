"use strict";
/* The report's charts, drawn when they come into view. Names go in as text, or escaped where Plotly takes markup. */
(() => {
  const { runs } = JSON.parse(document.getElementById("data").textContent);
  const { curve, draw, line, lookOf, ofStreams, overTime, plain, streamColour, streamDash, timeUnit, RUNS, DASHES } = FineserveCharts;
  const METRICS = [["ttft", "TTFT"], ["ttft_from_due", "TTFT from due"], ["tpot", "TPOT"], ["itl", "ITL"], ["e2e_latency", "E2E"],
    ["lag", "Lag"]];
  const AGAINST = [
    ["ttft_prompt", "TTFT against prompt length", "prompt tokens", "TTFT, ms", "log"],
    ["ttft_concurrency", "TTFT against concurrency", "requests in flight when it was sent", "TTFT, ms", "linear"],
    ["tpot_concurrency", "TPOT against concurrency", "requests in flight when it was sent", "TPOT, ms", "linear"],
    ["e2e_output", "E2E against output length", "output tokens", "E2E, ms", "log"],
  ];
  const waiting = new Map(), { dark } = lookOf(document.body);

  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) drawNow(entry.target);
  }, { rootMargin: "300px" });

  function drawNow(plot) {
    const todo = waiting.get(plot);
    if (!todo) return;
    waiting.delete(plot);
    watch.unobserve(plot);
    draw(plot, todo.chart, { ...lookOf(document.body), height: 300, ...todo.look });
  }

  function place(parent, chart, look) {
    const figure = document.createElement("figure"), title = document.createElement("h3"), plot = document.createElement("div");
    title.textContent = chart.title;
    plot.className = "plot";
    figure.setAttribute("role", "group");
    figure.setAttribute("aria-label", `${chart.title}, ${chart.unit}`);
    figure.dataset.chart = chart.id;
    figure.append(title, plot);
    parent.append(figure);
    waiting.set(plot, { chart, look });
    watch.observe(plot);
  }

  function grid(parent) {
    const box = document.createElement("div");
    box.className = "charts";
    parent.append(box);
    return box;
  }

  const colours = dark ? [...RUNS].reverse() : RUNS, colour = (place) => colours[place % colours.length], dash = (place) => DASHES[place % DASHES.length];

  const curves = document.getElementById("curve-charts");
  for (const [i, run] of runs.entries()) {
    for (const chart of curve(run.capacity, dark)) {
      place(curves, { ...chart, title: runs.length > 1 ? `${chart.title}: ${run.label}` : chart.title, id: `${chart.id}-${i}` });
    }
  }

  const cdfs = document.getElementById("cdf-charts");
  for (const [key, title] of METRICS) {
    const traces = runs.flatMap((run, i) => (run.cdf[key].x.length
      ? [line(plain(run.label), run.cdf[key].x, run.cdf[key].y, colour(i), dash(i),
        { mode: "lines", line: { color: colour(i), dash: dash(i), width: 2, shape: "hv" } })] : []));
    if (traces.length) {
      place(cdfs, { id: `cdf-${key}`, title: `${title}: share of values up to`, unit: "share", x: `${title}, ms`, xtype: "log", traces,
        hovermode: "closest", legend: runs.length > 1, yaxis: { range: [0, 1.01] } });
    }
  }

  // the tail as HDR Histogram draws it: each nine of the share has the same room
  const NINES = [[1, "0 %"], [10, "90 %"], [100, "99 %"], [1000, "99.9 %"], [10000, "99.99 %"]];
  const tails = document.getElementById("tail-charts");
  for (const [key, title] of METRICS) {
    const traces = runs.flatMap((run, i) => {
      const { x, y } = run.cdf[key], inside = y.map((share, at) => (share < 1 && 1 / (1 - share) <= 10500 ? at : -1)).filter((at) => at >= 0);
      return inside.length ? [line(plain(run.label), inside.map((at) => 1 / (1 - y[at])), inside.map((at) => x[at]), colour(i), dash(i),
        { mode: "lines", text: inside.map((at) => `${+(100 * y[at]).toPrecision(6)} %`), hovertemplate: "%{text}: %{y:.4~g} ms" })] : [];
    });
    if (traces.length) {
      place(tails, { id: `tail-${key}`, title: `${title}: its tail`, unit: "ms", x: "share of values up to", xtype: "log", traces,
        hovermode: "closest", legend: runs.length > 1,
        xaxis: { tickvals: NINES.map(([at]) => at), ticktext: NINES.map(([, text]) => text), range: [0, 4] } });
    }
  }

  // one row of charts per kind, one column per run: the same span and, where it helps, the same height
  const overtime = document.getElementById("time-charts");
  const ends = runs.map(({ axis }) => (axis.start_s.length ? axis.start_s.at(-1) + axis.width_s.at(-1) : 1));
  const unit = timeUnit(Math.max(...ends));
  const look = { x: `time since the start (${unit.name})`, range: [0, Math.max(...ends) / unit.seconds] };
  const charts = runs.map((run) => overTime(run.axis, run.columns, run.servers, run.limits, unit, dark));
  const most = (values) => values.reduce((highest, value) => (value > highest ? value : highest), 0);
  const kinds = [...new Set(charts.flatMap((list) => list.map((chart) => chart.id)))];
  let box = runs.length === 1 ? grid(overtime) : null;
  for (const kind of kinds) {
    if (runs.length > 1) box = grid(overtime);
    const found = charts.map((list) => list.find((chart) => chart.id === kind));
    const highest = most(found.flatMap((chart) => (!chart || chart.stacked ? [] : chart.traces.filter((trace) => !trace.yaxis)
      .map((trace) => most(trace.y)))));
    found.forEach((chart, i) => {
      if (!chart) return;
      const title = runs.length > 1 ? `${chart.title}: ${runs[i].label}` : chart.title;
      const yaxis = runs.length > 1 && highest ? { range: [0, 1.05 * highest] } : {};
      place(box, { ...chart, title, yaxis }, look);
    });
  }

  // of each mix: distributions by stream, and its streams over time
  const ofMixes = document.getElementById("stream-charts"), { text } = lookOf(document.body);
  for (const swatch of document.querySelectorAll(".swatch")) {
    const number = Number(swatch.dataset.stream);
    swatch.style.background = number < 0 ? text : streamColour(number);
  }
  for (const [i, run] of runs.entries()) {
    if (!run.streams.length) continue;
    const mine = grid(ofMixes), of = runs.length > 1 ? `: ${run.label}` : "";
    const streams = run.streams.map((one, number) => ({ ...one, number }));
    for (const [key, title] of METRICS) {
      const traces = streams.filter(({ cdf }) => cdf[key]?.x.length).map(({ name, number, cdf }) => line(plain(name), cdf[key].x, cdf[key].y,
        streamColour(number), "solid", { mode: "lines", line: { color: streamColour(number), dash: streamDash(number), width: 2, shape: "hv" } }));
      if (!traces.length) continue;
      place(mine, { id: `streams-cdf-${key}-${i}`, title: `${title} by stream: share of values up to${of}`, unit: "share", x: `${title}, ms`,
        xtype: "log", traces, hovermode: "closest", yaxis: { range: [0, 1.01] } });
    }
    for (const chart of ofStreams(run.axis, run.columns, streams, [], run.limits, unit, lookOf(document.body))) {
      if (chart.id !== "outcomes") place(mine, { ...chart, id: `streams-${chart.id}-${i}`, title: `${chart.title}, by stream${of}` }, look);
    }
  }

  const against = document.getElementById("against-charts");
  box = runs.length === 1 ? grid(against) : null;
  for (const [key, title, x, unitOfY, xtype] of AGAINST) {
    if (runs.length > 1) box = grid(against);
    runs.forEach((run, i) => {
      const { bins, sample } = run.against[key];
      if (!bins.x.length) return;
      const traces = [{ type: "scatter", mode: "markers", name: "requests", x: sample.x, y: sample.y, hoverinfo: "skip",
        marker: { size: 4, color: "#8a8a8a", opacity: 0.35 } },
      line("p50", bins.x, bins.p50, "#0072B2", "solid", { mode: "lines+markers" }),
      line("p90", bins.x, bins.p90, "#E69F00", "dash", { mode: "lines+markers" }),
      line("p99", bins.x, bins.p99, "#D55E00", "dot", { mode: "lines+markers" })];
      place(box, { id: `${key}-${i}`, title: runs.length > 1 ? `${title}: ${run.label}` : title, unit: unitOfY, x, xtype, traces });
    });
  }

  addEventListener("beforeprint", () => { for (const plot of [...waiting.keys()]) drawNow(plot); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => location.reload());
})();
