"use strict";
// Unpacks plotly.js, which the page carries compressed, and draws every picture with it.
(async () => {
  const narrow = matchMedia("(max-width: 40rem)");
  const touch = matchMedia("(pointer: coarse)");
  const PAPER = 660; // pixels that a sheet has room for
  const drawn = [];

  async function unpack(element) {
    const bytes = Uint8Array.from(atob(element.textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const library = document.createElement("script");
    library.textContent = await new Response(stream).text();
    document.head.append(library);
    element.remove();
  }

  // Names of modules differ at their ends.
  const tail = (name, most) => (name.length <= most ? name : "…" + name.slice(1 - most));

  function fitted(layout) {
    const names = layout.yaxis.tickvals;
    const most = narrow.matches ? 15 : 36;
    const yaxis = names ? { ...layout.yaxis, ticktext: names.map((name) => tail(name, most)) } : { ...layout.yaxis };
    if (narrow.matches) delete yaxis.title;
    return { ...layout, yaxis, dragmode: narrow.matches || touch.matches ? false : "zoom" };
  }

  const options = () => ({
    responsive: true,
    displaylogo: false,
    displayModeBar: narrow.matches || touch.matches ? false : "hover",
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
  });

  async function draw(figure) {
    const { data, layout } = JSON.parse(figure.querySelector("script").textContent);
    const place = figure.querySelector(".plot");
    place.replaceChildren();
    await Plotly.newPlot(place, data, fitted(layout), options());
    drawn.push({ place, data, layout });
  }

  try {
    await unpack(document.getElementById("plotly"));
    for (const figure of document.querySelectorAll("figure.drawn")) await draw(figure);
  } catch (error) {
    for (const note of document.querySelectorAll(".plot > .aside")) {
      note.textContent = `This browser could not draw the picture (${error.message}); its numbers are below.`;
    }
  }
  narrow.addEventListener("change", () => {
    for (const { place, data, layout } of drawn) Plotly.react(place, data, fitted(layout), options());
  });
  let unfolded = [];
  addEventListener("beforeprint", () => {
    unfolded = [...document.querySelectorAll(".finding details:not([open])")];
    for (const details of unfolded) details.open = true;
    for (const { place } of drawn) Plotly.relayout(place, { width: PAPER });
  });
  addEventListener("afterprint", () => {
    for (const details of unfolded) details.open = false;
    for (const { place } of drawn) Plotly.relayout(place, { width: null, autosize: true });
  });
  document.documentElement.dataset.drawn = String(drawn.length);
})();
