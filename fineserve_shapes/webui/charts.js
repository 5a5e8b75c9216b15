"use strict";
/* Charts over the time of a run: what the tab and the report draw alike, with Plotly.
   Text that comes from outside is escaped here: Plotly takes some markup in names and titles. */
const FineserveCharts = (() => {
  // Okabe and Ito's colours; lines of one chart differ in their dashes too
  const BLUE = "#0072B2", SKY = "#56B4E9", ORANGE = "#E69F00", GREEN = "#009E73", RED = "#D55E00", PINK = "#CC79A7";
  const GREY = "#8a8a8a";
  const RUNS = [BLUE, RED, GREEN, PINK, ORANGE, SKY];
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
  // of streams by their number, the same on white and on black; each theme and every kind of eye tells the eight apart
  const STREAMS = ["#0060b2", "#d55e00", "#009f7c", "#a776d3", "#e69f00", "#53c4ec", "#9a4351", "#b0bc99"];
  const OUTCOMES = {
    ok: GREEN, http_error: RED, stream_error: ORANGE, timeout: PINK, connect_error: BLUE, cancelled: SKY,
    unsent: GREY, unknown: "#b8a100",
  };
  const QUANTILES = [["p50_ms", "p50", null, "solid"], ["p90_ms", "p90", ORANGE, "dash"], ["p99_ms", "p99", RED, "dot"]];

  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  /* Seconds, minutes or hours: what suits a span. */
  function timeUnit(span_s) {
    if (span_s <= 600) return { name: "s", seconds: 1 };
    return span_s <= 10800 ? { name: "min", seconds: 60 } : { name: "h", seconds: 3600 };
  }

  const line = (name, x, y, colour, dash, more) => ({
    type: "scatter", name, x, y, mode: x.length < 400 ? "lines+markers" : "lines", marker: { size: 3, color: colour },
    line: { color: colour, dash, width: 1.8 }, hovertemplate: "%{y:.4~g}", ...more,
  });

  const streamColour = (number) => STREAMS[number % STREAMS.length];
  const streamDash = (number) => DASHES[Math.floor(number / STREAMS.length) % DASHES.length];

  const middles = (axis, unit) => axis.start_s.map((start, i) => (start + axis.width_s[i] / 2) / unit.seconds);
  const perSecond = (axis, column) => column.map((count, i) => (count === null ? null : count / axis.width_s[i]));

  /* The charts of one run: [{id, title, unit, traces, second}], each drawn by `draw`.
     axis: {start_s, width_s}; columns: as Series.as_dict has them; servers: [{url, series}];
     limits: {max_lag_ms} or null. dark: whether they stand on a dark ground. */
  function overTime(axis, columns, servers, limits, unit, dark) {
    const [MAIN, WIDE] = dark ? [SKY, BLUE] : [BLUE, SKY];  // the dark blue is hard to see on black
    if (!axis.start_s.length) return [];  // Plotly stumbles over an axis of empty columns
    const at = middles(axis, unit);
    const rate = (name) => perSecond(axis, columns[name]);
    const quantiles = (name) => QUANTILES.map(([key, label, colour, dash]) => line(label, at, columns[name][key], colour || MAIN, dash));
    const charts = [
      { id: "rate", title: "Load asked for and delivered", unit: "requests/s", traces: [
        line("asked", at, rate("planned"), WIDE, "solid", { line: { color: WIDE, width: 6 }, mode: "lines" }),
        line("sent", at, rate("sent"), MAIN, "solid"),
        line("answered", at, rate("ok"), GREEN, "dot"),
      ] },
      { id: "in_flight", title: "Requests in flight", unit: "requests", traces: [
        line("in flight", at, columns.in_flight, MAIN, "solid"),
      ] },
      { id: "ttft", title: "Time to first token", unit: "ms", traces: quantiles("ttft") },
      { id: "tpot", title: "Time per output token", unit: "ms", traces: quantiles("tpot") },
      { id: "tokens", title: "Tokens per second", unit: "output tokens/s", second: "input tokens/s", traces: [
        line("output", at, rate("output_tokens"), MAIN, "solid"),
        line("input", at, rate("input_tokens"), ORANGE, "dash", { yaxis: "y2" }),
      ] },
      { id: "outcomes", title: "Outcomes", unit: "requests/s", stacked: true,
        traces: Object.keys(OUTCOMES).filter((name) => name === "ok" || columns[name].some((count) => count))
          .map((name) => line(name.replace("_", " "), at, rate(name), OUTCOMES[name], "solid",
            { stackgroup: "one", mode: "lines", line: { color: OUTCOMES[name], width: 1, shape: "hvh" } })) },
      { id: "lag", title: "Lag: sent later than due", unit: "ms", traces: quantiles("lag") },
    ];
    if (limits) charts[6].traces.push(lagLimit(at, limits));
    if (servers.length > 1) return [...charts, ...ofServers(servers, unit)];
    const server = servers.length ? servers[0].series : null;
    if (server && server.at_s.length) {
      const when = server.at_s.map((at_s) => at_s / unit.seconds);
      charts[1].traces.push(line("running at the server", when, server.running, GREEN, "dash"));
      charts[1].traces.push(line("waiting at the server", when, server.waiting, RED, "dot"));
      charts[4].traces.push(line("output by the server", when, growth(server, "generation_tokens"), GREEN, "dot"));
      charts.push({ id: "cache", title: "The server's KV cache", unit: "% in use", second: "preemptions/s", traces: [
        line("in use", when, server.kv_cache_usage.map((use) => (use === null ? null : 100 * use)), MAIN, "solid"),
        line("preemptions", when, growth(server, "preemptions"), RED, "dot", { yaxis: "y2" }),
      ] });
    }
    return charts;
  }

  /* The curve of a search or a sweep, by the rate: [] before its first step. capacity: as the summary has it.
     A figure that no step has (answers that are not streamed have no TTFT) has no chart. The answer, its interval and the knee are marked in each chart. */
  function curve(capacity, dark) {
    const MAIN = dark ? SKY : BLUE;
    const steps = capacity ? capacity.steps.filter((step) => step.rate_rps !== null && step.verdict === "valid") : [];
    if (!steps.length) return [];
    steps.sort((a, b) => a.rate_rps - b.rate_rps);
    const at = steps.map((step) => step.rate_rps), of = (name) => steps.map((step) => step[name]);
    const points = (title, name, colour, dash, more) => line(title, at, of(name), colour, dash, { mode: "lines+markers", marker: { size: 7, color: colour }, ...more });
    // wider than the steps: of the first one alone it would be no line
    const across = (title, limit) => line(title, [0.9 * at[0], 1.1 * at[at.length - 1]], [limit, limit], GREY, "dashdot", { mode: "lines" });
    const limits = capacity.slo || {};
    const latency = (name, title, slo = `${name}_ms`) => ({
      id: `curve-${name}`, title, unit: "ms", traces: [
        points("p50", `median_${name}_ms`, MAIN, "solid"), points("p99", `p99_${name}_ms`, RED, "dot"),
        points("p99 at most", `p99_${name}_bound_ms`, ORANGE, "dash"),
        ...(limits[slo] ? [across("SLO", limits[slo])] : []),
      ],
    });
    const charts = [
      latency("ttft", "Time to first token against the rate"), latency("tpot", "Time per output token against the rate"),
      latency("e2e_latency", "Time to the end of an answer against the rate", "e2e_ms"),
      { id: "curve-goodput", title: "Goodput and tokens against the rate", unit: "good requests/s", second: "output tokens/s",
        traces: [
          ...(capacity.slo ? [points("goodput", "goodput_rps", MAIN, "solid"), points("at least", "goodput_low_rps", MAIN, "dot"),
            points("at most", "goodput_high_rps", MAIN, "dash")] : []),
          points("tokens", "output_throughput", ORANGE, "solid", { yaxis: "y2" }),
          points("tokens at least", "output_throughput_low", ORANGE, "dot", { yaxis: "y2" }),
          points("tokens at most", "output_throughput_high", ORANGE, "dash", { yaxis: "y2" }),
        ] },
    ];
    const drawn = (trace) => trace.mode !== "lines" && trace.y.some((value) => value !== null);
    const known = charts.filter((chart) => chart.traces.some(drawn));
    for (const chart of known) {
      chart.x = "requests/s";
      chart.hovermode = "closest";
      chart.traces = chart.traces.filter((trace) => trace.y.some((value) => value !== null));
      const top = Math.max(1e-9, ...chart.traces.filter((trace) => !trace.yaxis).flatMap((trace) => trace.y));
      const upright = (title, rate, colour, dash) => line(title, [rate, rate], [0, top], colour, dash, { mode: "lines" });
      if (capacity.rate_rps !== null) chart.traces.push(upright("capacity", capacity.rate_rps, GREEN, "solid"));
      if (capacity.knee_rps !== null) chart.traces.push(upright("knee", capacity.knee_rps, PINK, "dashdot"));
      if (capacity.low_rps !== null && capacity.high_rps !== null) {
        chart.shapes = [{ type: "rect", xref: "x", yref: "paper", x0: capacity.low_rps, x1: capacity.high_rps, y0: 0, y1: 1,
          fillcolor: GREEN, opacity: 0.15, line: { width: 0 }, layer: "below" }];
      }
    }
    return known;
  }

  const lagLimit = (at, limits) => line("limit of p99", [at[0], at[at.length - 1]], [limits.max_lag_ms, limits.max_lag_ms],
    GREY, "dashdot", { mode: "lines" });

  /* The charts of a mix: a line for each of its streams beside the total's.
     streams: [{name, number, columns}]; look: as `lookOf` has it. */
  function ofStreams(axis, total, streams, servers, limits, unit, look) {
    if (!axis.start_s.length) return [];
    const at = middles(axis, unit);
    const each = (of, first) => [...first, line("total", at, of(total), look.text, "solid", { mode: "lines" }),
      ...streams.map(({ name, number, columns }) => line(plain(name), at, of(columns), streamColour(number), streamDash(number),
        { connectgaps: at.length < 400 }))];  // a stream of few requests has seconds without a value, and dots for the others
    const rate = (name) => (columns) => perSecond(axis, columns[name]);
    const chart = (id, title, unitOfY, of, first = []) => ({ id, title, unit: unitOfY, traces: each(of, first) });
    const asked = line("total asked", at, rate("planned")(total), GREY, "solid",
      { line: { color: GREY, width: 6 }, opacity: 0.5, mode: "lines" });
    const lag = chart("lag", "Lag p99: sent later than due", "ms", (columns) => columns.lag.p99_ms);
    if (limits) lag.traces.push(lagLimit(at, limits));
    return [
      chart("rate", "Load delivered", "requests/s", rate("sent"), [asked]),
      chart("in_flight", "Requests in flight", "requests", (columns) => columns.in_flight),
      chart("ttft", "Time to first token, p50", "ms", (columns) => columns.ttft.p50_ms),
      chart("ttft_p99", "Time to first token, p99", "ms", (columns) => columns.ttft.p99_ms),
      chart("tpot", "Time per output token, p50", "ms", (columns) => columns.tpot.p50_ms),
      chart("tokens", "Output tokens per second", "tokens/s", rate("output_tokens")),
      overTime(axis, total, [], null, unit, look.dark).find(({ id }) => id === "outcomes"),
      lag,
      ...ofServers(servers, unit),
    ];
  }

  /* What servers say of themselves, with a line for each: none of those that have said nothing. */
  function ofServers(servers, unit) {
    const told = servers.map(({ url, series }, number) => ({ url, series, number })).filter(({ series }) => series.at_s.length);
    if (!told.length) return [];
    const name = (url) => plain(url.replace(/^https?:\/\//, "").replace(/\/metrics$/, ""));
    const each = (of, what, dash) => told.map(({ url, series, number }) => line(what + name(url),
      series.at_s.map((at_s) => at_s / unit.seconds), of(series), streamColour(number), dash));
    return [
      { id: "server_requests", title: "Requests at the servers", unit: "requests", traces: [
        ...each((series) => series.running, "running: ", "solid"), ...each((series) => series.waiting, "waiting: ", "dot")] },
      { id: "server_tokens", title: "Output by the servers", unit: "tokens/s",
        traces: each((series) => growth(series, "generation_tokens"), "", "solid") },
      { id: "cache", title: "KV cache of the servers", unit: "% in use",
        traces: each((series) => series.kv_cache_usage.map((use) => (use === null ? null : 100 * use)), "", "solid") },
    ];
  }

  /* A counter of the server per second; null where it began anew. */
  function growth(server, name) {
    return server[name].map((value, i) => {
      const before = i ? server[name][i - 1] : null;
      return value === null || before === null || value < before ? null
        : (value - before) / (server.at_s[i] - server.at_s[i - 1]);
    });
  }

  /* An axis from 0 upwards; Plotly makes no scale of nothing but zeros, and stumbles over no values at all. */
  function upwards(chart, second) {
    const traces = chart.traces.filter((trace) => (trace.yaxis === "y2") === second);
    return traces.some((trace) => trace.y.some((value) => value > 0)) ? { rangemode: "tozero" } : { range: [0, 1] };
  }

  function layout(chart, look) {
    const axis = { gridcolor: look.grid, zerolinecolor: look.grid, linecolor: look.grid, automargin: true };
    return {
      height: look.height || 270, margin: { l: 56, r: chart.second ? 56 : 14, t: 8, b: 40 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: look.text, size: 12, family: "Roboto, Helvetica, Arial, sans-serif" },
      hoverlabel: { bgcolor: look.paper, bordercolor: look.grid, font: { color: look.text }, namelength: -1 },
      hovermode: chart.hovermode || "x unified", dragmode: look.touch ? false : "zoom", uirevision: look.revision || "as it is",
      modebar: { bgcolor: "rgba(0,0,0,0)", color: look.text, activecolor: BLUE },
      shapes: chart.shapes || [], showlegend: chart.legend !== false, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      xaxis: { ...axis, title: { text: plain(chart.x || look.x || ""), standoff: 6 }, type: chart.xtype || "linear",
        ...(look.range ? { range: look.range, autorange: false, uirevision: look.ranged } : {}), ...(chart.xaxis || {}) },
      yaxis: { ...axis, title: { text: plain(chart.unit), standoff: 6 }, ...upwards(chart, false), fixedrange: true,
        ...(chart.yaxis || {}) },
      ...(chart.second ? { yaxis2: { ...axis, title: { text: plain(chart.second), standoff: 6 }, overlaying: "y", side: "right",
        ...upwards(chart, true), fixedrange: true, tickmode: "auto", showgrid: false } } : {}),
    };
  }

  const config = (touch) => ({
    responsive: true, displaylogo: false, displayModeBar: touch ? false : "hover", showTips: false,
    doubleClick: "autosize", showSendToCloud: false,  // a chart's data stays here
    modeBarButtonsToRemove: ["select2d", "lasso2d", "resetScale2d", "sendDataToCloud", "sendChartToCloud"],
  });

  /* Draw into an element, or bring what is there up to date. */
  function draw(element, chart, look) {
    return Plotly.react(element, chart.traces, layout(chart, look), config(look.touch)).then((drawn) => {
      // seen on hovering only: no stops on the way from chart to chart for who goes by the keyboard
      for (const button of element.querySelectorAll(".modebar-btn")) button.tabIndex = -1;
      return drawn;
    });
  }

  /* How it shall look where `element` stands: dark or light, as its background says. */
  function lookOf(element) {
    const found = /rgba?\((\d+), (\d+), (\d+)/.exec(getComputedStyle(element).backgroundColor);
    const dark = found ? 0.3 * found[1] + 0.6 * found[2] + 0.1 * found[3] < 128 : false;
    return {
      dark, text: dark ? "#e6e6e6" : "#222222", grid: dark ? "#4a4a4a" : "#d9d9d9", paper: dark ? "#1e1e1e" : "#ffffff",
      touch: matchMedia("(pointer: coarse)").matches,
    };
  }

  return { overTime, ofStreams, curve, draw, lookOf, timeUnit, plain, line, streamColour, streamDash, RUNS, DASHES };
})();
