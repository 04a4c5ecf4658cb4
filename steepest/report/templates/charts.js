/* Draws the page's charts with plotly. The page holds each chart as JSON, with colours as CSS
   variables; here they become colours of the theme, and sizes become those of the screen or paper. */
"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const root = document.documentElement;
  const titles = { step: "updates", samples: "rows", seconds: "seconds" };
  const hidden = new Set();
  const PAPER = { whole: 650, half: 300 }; // pixels, on A4 and on Letter
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let place = document.querySelector("[data-place]")?.dataset.place ?? "step";
  let printing = false;

  const probe = document.body.appendChild(document.createElement("i"));
  probe.style.display = "none";

  /* Return a copy in which every "var(--name)" is the colour that it stands for now. */
  function themed(value) {
    if (typeof value === "string" && value.startsWith("var(")) {
      probe.style.color = value;
      return getComputedStyle(probe).color;
    }
    if (Array.isArray(value)) return typeof value.at(-1) === "number" ? value : value.map(themed);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, themed(item)]));
  }

  /* Return a trace over the chosen place, hidden if its run is. */
  function trace({ run, xs, ratios, ...given }) {
    const made = { ...given, visible: !hidden.has(run) };
    if (xs) made.x = xs[place];
    if (ratios) {
      made.customdata = ratios;
      const power = (ratio) => (ratio === null ? null : Math.log10(Math.max(ratio, 1e-9)));
      made.z = ratios.map((row) => row.map(power));
    }
    return made;
  }

  function axis(given, standard) {
    const { title, ...rest } = { ...standard, ...given };
    return {
      automargin: true,
      gridcolor: "var(--line)",
      linecolor: "var(--line)",
      zeroline: false,
      ticks: "",
      fixedrange: matchMedia("(pointer: coarse)").matches, // a finger scrolls the page
      title: { text: title ?? "", standoff: 10, font: { size: 12 } },
      ...rest,
    };
  }

  /* Return about five round numbers between two, by their logarithm where they are far apart. */
  function ticks(low, high) {
    if (!(high > low)) return [low];
    const first = Math.floor(Math.log10(low));
    const decades = Math.log10(high / low);
    if (decades < 0.7) {
      const rough = (high - low) / 4;
      const power = 10 ** Math.floor(Math.log10(rough));
      const step = power * [1, 2, 5, 10].find((times) => times * power >= rough);
      const start = Math.ceil(low / step);
      return Array.from({ length: 6 }, (_, k) => (start + k) * step);
    }
    const every = Math.ceil(decades / 7);
    const among = decades > 3 ? [1] : [1, 2, 5];
    const count = Math.ceil(decades / every) + 2;
    const around = (k) => among.map((times) => times * 10 ** (first + k * every));
    return Array.from({ length: count }, (_, k) => around(k)).flat();
  }

  function logarithmic(traces, range) {
    const values = traces.flatMap((one) => one.y).filter((y) => y > 0);
    const least = (a, b) => Math.min(a, b);
    const most = (a, b) => Math.max(a, b);
    const [low, high] = range ?? [values.reduce(least), values.reduce(most)];
    const tickvals = ticks(low, high);
    return { type: "log", tickvals, ticktext: tickvals.map(tick), range: range?.map(Math.log10) };
  }

  /* Return a number as text, a small or large one as a power of ten. */
  function tick(value) {
    const plain = value >= 1e-3 && value < 1e6;
    if (plain) return value.toLocaleString("en", { maximumSignificantDigits: 3 });
    const [mantissa, power] = value.toExponential(2).split("e");
    const times = Number(mantissa) === 1 ? "" : `${Number(mantissa)}·`;
    return times + "10" + Number(power).toString().replace(/./g, (c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] ?? "⁻");
  }

  /* Return what a heat map of many rows needs on a phone: fewer and shorter names, a flat scale. */
  function narrow(one) {
    const every = Math.ceil(one.y.length / 25);
    const tickvals = one.y.filter((_, k) => k % every === 0);
    const shorter = (name) => `${name.slice(0, 9)}…${name.slice(-7)}`;
    const ticktext = tickvals.map((name) => (name.length > 17 ? shorter(name) : name));
    one.colorbar = { ...one.colorbar, orientation: "h", y: 1, yanchor: "bottom", ypad: 4 };
    return { tickvals, ticktext, tickfont: { size: 10 } };
  }

  function layout(chart, width) {
    const curves = chart.data.some((one) => one.xs);
    const unified = curves && chart.data[0].type === "scatter";
    const time = {
      title: titles[place],
      rangemode: "tozero",
      showline: true,
      hoverformat: place === "seconds" ? ",.2f" : ",.0f",
      spikethickness: 1,
      spikedash: "solid",
      spikecolor: "var(--faint)",
    };
    const y = unified ? { tickformat: "~g", fixedrange: true } : {};
    const given = { ...chart.layout.yaxis };
    if (chart.log) Object.assign(given, logarithmic(chart.data, given.range));
    return {
      ...chart.layout,
      width,
      height: chart.height ? chart.height * (printing ? 0.8 : 1) : Math.min(width, 480),
      autosize: false,
      margin: { l: 8, r: 12, t: 10, b: 8 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: "var(--faint)" },
      showlegend: false,
      hovermode: unified ? "x unified" : "closest",
      hoverlabel: {
        bgcolor: "var(--card)",
        bordercolor: "var(--line)",
        font: { color: "var(--ink)", size: 12.5 },
      },
      xaxis: axis(chart.layout.xaxis, curves ? time : {}),
      yaxis: axis(given, y),
    };
  }

  function draw(id) {
    const chart = charts[id];
    const div = document.getElementById(id);
    const half = getComputedStyle(div.parentElement).gridColumnStart === "auto";
    const width = printing ? PAPER[half ? "half" : "whole"] : div.clientWidth;
    const config = { displayModeBar: false, responsive: false, scrollZoom: false };
    const traces = chart.data.map(trace);
    const made = layout(chart, width);
    if (width < 500 && traces[0].colorbar) Object.assign(made.yaxis, narrow(traces[0]));
    Plotly.react(div, themed(traces), themed(made), config);
  }

  const drawAll = () => Object.keys(charts).forEach(draw);

  function press(button, pressed) {
    button.setAttribute("aria-pressed", String(pressed));
  }

  function each(selector, act) {
    for (const button of document.querySelectorAll(selector)) {
      button.addEventListener("click", () => act(button));
    }
  }

  each("button.log", (button) => {
    const chart = charts[button.dataset.chart];
    chart.log = !chart.log;
    press(button, chart.log);
    draw(button.dataset.chart);
  });
  each("[data-place]", (button) => {
    place = button.dataset.place;
    for (const other of document.querySelectorAll("[data-place]")) press(other, other === button);
    drawAll();
  });
  each("[data-run]", (button) => {
    const run = Number(button.dataset.run);
    if (!hidden.delete(run)) hidden.add(run);
    press(button, !hidden.has(run));
    drawAll();
  });
  each("button.theme", () => {
    const shown = root.dataset.theme ?? (dark.matches ? "dark" : "light");
    root.dataset.theme = shown === "dark" ? "light" : "dark";
    drawAll();
  });
  dark.addEventListener("change", drawAll);

  let width = innerWidth;
  addEventListener("resize", () => {
    if (printing || innerWidth === width) return; // a phone's address bar changes the height only
    width = innerWidth;
    drawAll();
  });

  let theme;
  addEventListener("beforeprint", () => {
    printing = true;
    theme = root.dataset.theme;
    root.dataset.theme = "light";
    drawAll();
  });
  addEventListener("afterprint", () => {
    printing = false;
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
    drawAll();
  });

  drawAll();
  root.dataset.drawn = Object.keys(charts).length;
})();
