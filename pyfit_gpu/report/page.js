"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const make = (name, attributes, parent, text) => {
    const node = document.createElementNS(SVG, name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    if (text !== undefined) node.textContent = text;
    if (parent) parent.appendChild(node);
    return node;
  };

  // ---- numbers and axes

  function shown(value) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size < 1e-4 || size >= 1e7) return String(Number(value.toPrecision(3)).toExponential()).replace("e+", "e").replace(/-/g, "−");
    const text = String(Number(value.toPrecision(5)));
    return text.replace("-", "−");
  }

  function linearTicks(low, high, most) {
    const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
    const ticks = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) ticks.push(k * step);
    return ticks.map((value) => [value, shown(Number(value.toPrecision(12)))]);
  }

  function logTicks(low, high, most) {
    const first = Math.ceil(low - 1e-9), last = Math.floor(high + 1e-9);
    if (last - first < 1) { // less than two decades: plain numbers, at 1, 2 and 5
      const ticks = [];
      for (let k = Math.floor(low); k <= high; k++)
        for (const factor of [1, 2, 5]) {
          const place = k + Math.log10(factor);
          if (place >= low && place <= high) ticks.push([place, shown(Number((factor * 10 ** k).toPrecision(3)))]);
        }
      return ticks;
    }
    const stride = Math.max(1, Math.ceil((last - first + 1) / most)), ticks = [];
    for (let k = first; k <= last; k += stride) ticks.push([k, shown(Number((10 ** k).toPrecision(3)))]);
    return ticks;
  }

  function limits(values, log) {
    let low = Infinity, high = -Infinity;
    for (const value of values) { if (value < low) low = value; if (value > high) high = value; }
    if (low > high) return [0, 1];
    const margin = 0.04 * (high - low) || (log ? 0.5 : Math.abs(low) * 0.05 || 1);
    return [low - margin, high + margin];
  }

  // ---- markers, as outlines around 0, in the order of looks.py

  function marker(kind, x, y, r) {
    const at = (points) => "M" + points.map(([a, b]) => `${(x + a * r).toFixed(1)} ${(y + b * r).toFixed(1)}`).join("L") + "Z";
    switch (kind) {
      case 1: return at([[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]]);
      case 2: return at([[0, -1.15], [1.1, 0.85], [-1.1, 0.85]]);
      case 3: return at([[0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]]);
      case 4: return at([[0, 1.15], [1.1, -0.85], [-1.1, -0.85]]);
      case 5: return at([[-0.4, -1.1], [0.4, -1.1], [0.4, -0.4], [1.1, -0.4], [1.1, 0.4], [0.4, 0.4], [0.4, 1.1], [-0.4, 1.1], [-0.4, 0.4], [-1.1, 0.4], [-1.1, -0.4], [-0.4, -0.4]]);
      case 6: return at([[0, -0.55], [0.65, -1.2], [1.2, -0.65], [0.55, 0], [1.2, 0.65], [0.65, 1.2], [0, 0.55], [-0.65, 1.2], [-1.2, 0.65], [-0.55, 0], [-1.2, -0.65], [-0.65, -1.2]]);
      default: return `M${(x - r).toFixed(1)} ${y.toFixed(1)}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`;
    }
  }

  // ---- plots

  class Plot {
    constructor(figure, data) {
      this.figure = figure;
      this.data = data;
      this.canvas = figure.querySelector(".canvas");
      this.hidden = new Set();
      this.current = -1;
      this.tip = document.createElement("div");
      this.tip.className = "tip";
      this.tip.setAttribute("role", "status");
      this.tip.hidden = true;
      figure.appendChild(this.tip);
      this.legend();
      this.draw();
    }

    legend() {
      const box = this.figure.querySelector(".legend");
      const named = this.data.series.filter((one) => one.label);
      if (!named.length || this.data.series.length < 2) return;
      this.data.series.forEach((one, k) => {
        if (!one.label) return;
        const button = document.createElement("button");
        button.type = "button";
        button.setAttribute("aria-pressed", "true");
        button.title = one.label;
        const icon = make("svg", { width: 16, height: 12, "aria-hidden": "true" });
        make("path", one.line ? { d: "M0 6H16", stroke: one.colour, "stroke-width": 2.5 } : { d: marker(one.marker, 8, 6, 4), fill: one.colour }, icon);
        const text = document.createElement("span");
        text.textContent = one.label;
        button.append(icon, text);
        button.addEventListener("click", () => {
          const show = this.hidden.delete(k);
          if (!show) this.hidden.add(k);
          button.setAttribute("aria-pressed", String(show));
          this.draw();
        });
        box.appendChild(button);
      });
    }

    // Points with their places on the axes; what an axis cannot show is left out.
    collect() {
      const sx = this.data.log_x ? Math.log10 : Number, sy = this.data.log_y ? Math.log10 : Number;
      this.points = [];
      this.data.series.forEach((one, k) => {
        if (this.hidden.has(k)) return;
        for (let i = 0; i < one.x.length; i++) {
          if (one.x[i] === null || one.y[i] === null) continue;
          const x = sx(one.x[i]), y = sy(one.y[i]);
          if (Number.isFinite(x) && Number.isFinite(y)) this.points.push({ x, y, series: k, row: i });
        }
      });
    }

    draw() {
      this.hide();
      this.collect();
      const { data } = this, width = Math.max(260, this.canvas.clientWidth || 520);
      this.width = width;
      const height = Math.round(Math.min(width * (data.diagonal ? 0.86 : 0.68), 430));
      let [x0, x1] = limits(this.points.map((p) => p.x), data.log_x);
      let [y0, y1] = limits(this.points.map((p) => p.y), data.log_y);
      if (data.diagonal) { x0 = y0 = Math.min(x0, y0); x1 = y1 = Math.max(x1, y1); }
      if (data.ticks.length) { x0 = data.ticks[0][0]; x1 = data.ticks[data.ticks.length - 1][0]; }
      const yTicks = (data.log_y ? logTicks : linearTicks)(y0, y1, Math.max(3, height / 55));
      const left = 30 + 7 * Math.max(...yTicks.map(([, text]) => text.length), 2), right = 12, top = 8, bottom = 42;
      const xTicks = data.ticks.length ? data.ticks : (data.log_x ? logTicks : linearTicks)(x0, x1, Math.max(2, (width - left) / 85));
      const px = (x) => left + ((x - x0) / (x1 - x0)) * (width - left - right);
      const py = (y) => height - bottom - ((y - y0) / (y1 - y0)) * (height - top - bottom);
      const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0, "aria-label": `${data.title}: ${data.y_label} against ${data.x_label}. Arrow keys go from point to point.` });
      for (const [value, text] of yTicks) {
        make("path", { class: "grid", d: `M${left} ${py(value).toFixed(1)}H${width - right}` }, svg);
        make("text", { x: left - 6, y: py(value) + 4, "text-anchor": "end" }, svg, text);
      }
      for (const [value, text] of xTicks) {
        make("path", { class: "grid", d: `M${px(value).toFixed(1)} ${top}V${height - bottom}` }, svg);
        make("text", { x: px(value), y: height - bottom + 16, "text-anchor": "middle" }, svg, text);
      }
      make("text", { class: "title", x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, svg, data.x_label);
      make("text", { class: "title", transform: `translate(12 ${(top + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, svg, data.y_label);
      make("rect", { class: "frame", x: left, y: top, width: width - left - right, height: height - top - bottom }, svg);
      if (data.diagonal) make("path", { class: "guide", d: `M${px(x0)} ${py(y0)}L${px(x1)} ${py(y1)}` }, svg);
      else if (!data.log_y && y0 < 0 && y1 > 0) make("path", { class: "guide", d: `M${left} ${py(0)}H${width - right}` }, svg);
      const radius = this.points.length > 600 ? 2.2 : 3.2, paths = data.series.map(() => []);
      for (const p of this.points) {
        p.px = px(p.x); p.py = py(p.y);
        const own = paths[p.series], one = data.series[p.series];
        own.push(one.line ? `${own.length ? "L" : "M"}${p.px.toFixed(1)} ${p.py.toFixed(1)}` : marker(one.marker, p.px, p.py, radius));
      }
      data.series.forEach((one, k) => {
        if (!paths[k].length) return;
        const style = one.line ? { fill: "none", stroke: one.colour, "stroke-width": 1.8, "stroke-linejoin": "round" } : { fill: one.colour, "fill-opacity": 0.75 };
        make("path", { d: paths[k].join(""), ...style }, svg);
      });
      this.ring = make("circle", { class: "ring", r: 6, visibility: "hidden" }, svg);
      this.ordered = this.points.slice().sort((a, b) => a.x - b.x);
      this.listen(svg);
      this.canvas.replaceChildren(svg);
      this.svg = svg;
    }

    listen(svg) {
      const find = (event) => this.nearest(event);
      svg.addEventListener("pointermove", (event) => { if (event.pointerType !== "touch") find(event); });
      svg.addEventListener("pointerdown", find);
      svg.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") this.hide(); });
      svg.addEventListener("blur", () => this.hide());
      svg.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
        if (event.key === "Escape") this.hide();
        if (!step || !this.ordered.length) return;
        event.preventDefault();
        const count = this.ordered.length, from = this.current < 0 && step < 0 ? 0 : this.current;
        this.show((from + step + count) % count);
      });
    }

    nearest(event) {
      const box = this.svg.getBoundingClientRect(), zoom = this.width / box.width;
      const x = (event.clientX - box.left) * zoom, y = (event.clientY - box.top) * zoom;
      let best = -1, least = event.pointerType === "touch" ? 900 : 225; // squared pixels
      this.ordered.forEach((p, k) => {
        const distance = (p.px - x) ** 2 + (p.py - y) ** 2;
        if (distance < least) { least = distance; best = k; }
      });
      if (best < 0) this.hide(); else this.show(best);
    }

    show(place) {
      this.current = place;
      const p = this.ordered[place], one = this.data.series[p.series], zoom = this.svg.getBoundingClientRect().width / this.width;
      this.ring.setAttribute("cx", p.px);
      this.ring.setAttribute("cy", p.py);
      this.ring.setAttribute("visibility", "visible");
      const name = document.createElement("b");
      name.textContent = one.names.length ? one.names[p.row] : one.label;
      this.tip.replaceChildren(name);
      if (one.names.length && one.label) this.tip.append(one.label, document.createElement("br"));
      this.tip.append(`${this.data.x_label}: ${shown(one.x[p.row])}`, document.createElement("br"), `${this.data.y_label}: ${shown(one.y[p.row])}`);
      if (this.data.diagonal && !this.data.log_y && !one.line)
        this.tip.append(document.createElement("br"), `difference: ${shown(Number((one.y[p.row] - one.x[p.row]).toPrecision(3)))}`);
      this.tip.hidden = false;
      const left = Math.min(Math.max(0, p.px * zoom - this.tip.offsetWidth / 2), this.figure.clientWidth - this.tip.offsetWidth);
      const above = this.canvas.offsetTop + p.py * zoom - this.tip.offsetHeight - 12;
      this.tip.style.left = `${left}px`;
      this.tip.style.top = `${above < 0 ? this.canvas.offsetTop + p.py * zoom + 14 : above}px`;
    }

    hide() {
      this.current = -1;
      this.tip.hidden = true;
      if (this.ring) this.ring.setAttribute("visibility", "hidden");
    }
  }

  // ---- tables

  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const numeric = head.classList.contains("n"), before = head.getAttribute("aria-sort");
        // Large numbers first, names from the first one on; again: the other way round.
        const up = before ? before === "descending" : !numeric;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const key = (row) => (numeric ? Number(row.cells[column].dataset.v ?? NaN) : row.cells[column].textContent);
        const rows = [...body.rows].map((row) => [key(row), row]);
        rows.sort(([a], [b]) => {
          if (numeric && (Number.isNaN(a) || Number.isNaN(b))) return Number.isNaN(a) - Number.isNaN(b);
          const order = numeric ? a - b : a.localeCompare(b, "en", { numeric: true });
          return up ? order : -order;
        });
        body.append(...rows.map(([, row]) => row));
      });
    });
  }

  document.querySelectorAll("table").forEach(sortable);
  const all = JSON.parse(document.getElementById("plots").textContent);
  const plots = [...document.querySelectorAll("figure[data-plot]")].map((figure) => new Plot(figure, all[figure.dataset.plot]));
  let waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => plots.forEach((plot) => { if (plot.canvas.clientWidth !== plot.width) plot.draw(); }), 150);
  });
})();
