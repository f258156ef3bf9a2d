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

    // A place in a chart: its lines of text, and where the cursor and its dots stand.
    function placeOnLines(data, hidden, x) {
        const shown = data.series.filter(s => !hidden.has(s.name) && s.px.length);
        if (!shown.length) return null;
        let at = null;
        for (const s of shown) {
            const px = s.px[nearest(s.px, x)];
            if (at === null || Math.abs(px - x) < Math.abs(at - x)) at = px;
        }
        const rows = [], dots = [];
        let title = "";
        for (const s of shown) {
            const i = nearest(s.px, at);
            if (Math.abs(s.px[i] - at) > 12) continue;
            if (Math.abs(s.px[i] - at) < 0.1) title = data.x + " " + s.x[i];
            rows.push([s.css, s.name, s.text[i]]);
            if (data.kind === "lines" && s.py[i] !== null) dots.push([s.css, s.px[i], s.py[i]]);
        }
        if (data.kind === "bars") rows.reverse();
        return {title, rows, dots, x: at};
    }

    function placeOnHeat(data, x, y) {
        const columns = data.columns.length, rows = data.rows.length;
        const column = Math.floor((x - data.left) / data.wide * columns);
        const row = Math.floor((y - data.top) / data.high * rows);
        if (column < 0 || column >= columns || row < 0 || row >= rows) return null;
        const value = data.numbers[row * columns + column];
        const first = data.columns[column];
        const words = "round " + first + (data.size > 1 ? " and " + (data.size - 1) + " after" : "");
        const told = value === 65535 ? "not known" :
            (value / 1000).toFixed(2) + "\u00d7 " + data.words;
        return {title: data.row + " " + data.rows[row] + ", " + words, rows: [["", told, ""]],
                dots: [], x: null};
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
        for (const button of figure.querySelectorAll("button[data-s]"))
            button.addEventListener("click", () => {
                const name = button.dataset.s, off = !hidden.delete(name);
                if (off) hidden.add(name);
                button.setAttribute("aria-pressed", String(!off));
                for (const part of figure.querySelectorAll(".plot [data-s]"))
                    if (part.dataset.s === name) part.classList.toggle("off", off);
            });
    }

    document.querySelectorAll("figure.chart").forEach(follow);
    document.documentElement.dataset.ready = document.querySelectorAll(".tip").length;
})();
