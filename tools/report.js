// Values under the pointer, and legends that switch lines off. The page is complete without it.
"use strict";
(function () {
    const SVG = "http://www.w3.org/2000/svg";

    function element(parent, name, attributes) {
        const made = document.createElementNS(SVG, name);
        for (const key in attributes) made.setAttribute(key, attributes[key]);
        return parent.appendChild(made);
    }

    function nearest(positions, x) {
        let low = 0, high = positions.length - 1;
        while (high - low > 1) {
            const middle = (low + high) >> 1;
            if (positions[middle] < x) low = middle; else high = middle;
        }
        return x - positions[low] <= positions[high] - x ? low : high;
    }

    const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    function words(value, format) {
        if (value === null) return "not finite";
        if (format === "percent") return (100 * value).toFixed(1) + " %";
        let unit = "";
        if (format === "bytes") {
            let power = 0;
            while (value >= 1024 && power < 6) { value /= 1024; ++power; }
            unit = " " + UNITS[power];
        }
        return String(Number(value.toPrecision(format === "bytes" ? 3 : 5))) + unit;
    }

    function position(value, [low, high, begin, end], base) {
        if (base) value = Math.max(low, Math.log(value) / Math.log(base));
        return begin + (value - low) / (high - low) * (end - begin);
    }

    // A place in a chart: its lines of text, and where the cursor and its dots stand.
    function placeOnLines(data, hidden, px) {
        const shown = data.series.filter(s => !hidden.has(s.name) && s.x.length);
        if (!shown.length) return null;
        const [low, high, begin, end] = data.sx;
        const x = low + (px - begin) / (end - begin) * (high - low);
        let at = null;
        for (const s of shown) {
            const near = s.x[nearest(s.x, x)];
            if (at === null || Math.abs(near - x) < Math.abs(at - x)) at = near;
        }
        const rows = [], dots = [];
        for (const s of shown) {
            const i = nearest(s.x, at), sx = position(s.x[i], data.sx, 0);
            if (Math.abs(sx - position(at, data.sx, 0)) > 12) continue;
            const other = s.x[i] === at ? "" : ", " + data.x + " " + s.x[i];
            rows.push([s.css, s.name + other, words(s.y[i], data.format)]);
            if (data.kind === "lines" && s.y[i] !== null)
                dots.push([s.css, sx, position(s.y[i], data.sy, data.base)]);
        }
        if (data.kind === "bars") rows.reverse();
        const label = data.labels ? data.labels[nearest(shown[0].x, at)] : at;
        return {title: data.x + " " + label, rows, dots, x: position(at, data.sx, 0)};
    }

    function placeOnHeat(data, x, y) {
        const columns = data.columns.length, rows = data.rows.length;
        const column = Math.floor((x - data.left) / data.wide * columns);
        const row = Math.floor((y - data.top) / data.high * rows);
        if (column < 0 || column >= columns || row < 0 || row >= rows) return null;
        const value = data.numbers[row * columns + column];
        const round = data.columns[column];
        const when = data.size > 1 ? "the rounds from " + round + " on" : "round " + round;
        const lines = [["", value === 65535 ? "not known" :
                        (value / 1000).toFixed(2) + "\u00d7 " + data.words, ""]];
        if (data.held.length) lines.push(["", "held by " + data.held[row], ""]);
        return {title: data.row + " " + data.rows[row] + ", " + when, rows: lines, dots: [],
                x: null, box: {x: data.left + column * data.wide / columns,
                               y: data.top + row * data.high / rows,
                               width: data.wide / columns, height: data.high / rows}};
    }

    function tell(tip, place) {
        tip.textContent = "";
        tip.appendChild(document.createElement("strong")).textContent = place.title;
        for (const [css, name, value] of place.rows) {
            const line = tip.appendChild(document.createElement("div"));
            if (css) line.appendChild(document.createElement("i")).className = "box " + css;
            line.appendChild(document.createElement("span")).textContent = name;
            if (value) line.appendChild(document.createElement("b")).textContent = value;
        }
        tip.hidden = false;
    }

    function follow(figure) {
        const script = figure.querySelector("script");
        if (!script) return;
        const data = JSON.parse(script.textContent);
        if (data.kind === "heat") {
            const bytes = Uint8Array.from(atob(data.values), c => c.charCodeAt(0));
            data.numbers = new Uint16Array(bytes.buffer);
        }
        const plot = figure.querySelector(".plot"), svg = plot.querySelector("svg");
        const tip = plot.appendChild(document.createElement("div"));
        tip.className = "tip";
        tip.hidden = true;
        const cursor = element(svg, "g", {"pointer-events": "none"});
        const hidden = new Set();

        plot.addEventListener("pointermove", event => {
            const box = svg.getBoundingClientRect();
            const zoom = box.width / svg.viewBox.baseVal.width;
            const x = (event.clientX - box.left) / zoom, y = (event.clientY - box.top) / zoom;
            const place = data.kind === "heat" ? placeOnHeat(data, x, y) :
                placeOnLines(data, hidden, x);
            cursor.textContent = "";
            tip.hidden = true;
            if (!place) return;
            if (place.x !== null)
                element(cursor, "line", {x1: place.x, x2: place.x, y1: data.top, y2: data.bottom,
                                         class: "cursor"});
            if (place.box) element(cursor, "rect", {...place.box, class: "cursor"});
            for (const [css, px, py] of place.dots)
                element(cursor, "circle", {cx: px, cy: py, r: 4, class: "dot " + css});
            tell(tip, place);
            const at = (place.x === null ? x : place.x) * zoom;
            const right = at + tip.offsetWidth + 16 > box.width;
            tip.style.left = Math.max(0, right ? at - tip.offsetWidth - 12 : at + 12) + "px";
            tip.style.top = Math.max(0, Math.min(y * zoom - 10,
                                                 box.height - tip.offsetHeight)) + "px";
        });
        plot.addEventListener("pointerleave", () => {
            cursor.textContent = "";
            tip.hidden = true;
        });
        figure.hiddenNames = hidden;
    }

    // A button in a chart's legend is for that chart, one outside of charts for all of its run.
    function toggle(button) {
        const name = button.dataset.s, off = button.getAttribute("aria-pressed") === "true";
        button.setAttribute("aria-pressed", String(!off));
        const own = button.closest("figure");
        for (const figure of own ? [own] : button.closest("article").querySelectorAll("figure")) {
            if (figure.hiddenNames) figure.hiddenNames[off ? "add" : "delete"](name);
            for (const part of figure.querySelectorAll(".plot [data-s]"))
                if (part.dataset.s === name) part.classList.toggle("off", off);
        }
    }

    document.querySelectorAll("figure.chart").forEach(follow);
    for (const button of document.querySelectorAll("button[data-s]"))
        button.addEventListener("click", () => toggle(button));
    document.documentElement.dataset.ready = document.querySelectorAll(".tip").length;
})();
