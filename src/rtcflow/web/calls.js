// The page of the live calls. The server says what each cell shows; this keeps one row for each call, so that a button
// stays where it is and keeps the focus while its figures change.

const SECOND = 1000;
const SURE = 4 * SECOND; // how long "Really?" can be pressed
// Not relative to the page's own address: with a name and a password in it, browsers refuse to fetch.
const here = new URL(location.pathname, location.origin);
const element = (id) => document.getElementById(id);
const rows = new Map(); // by the call's number

const trouble = (words) => {
  element("trouble").textContent = words;
  element("trouble").hidden = !words;
};

async function ask(path, options = {}) {
  const response = await fetch(new URL(path, here), { credentials: "same-origin", ...options });
  if (response.ok) return response.json();
  const body = await response.json().catch(() => null);
  throw new Error(body?.meta?.message ?? `the server answered ${response.status}`);
}

async function end(call, button) {
  button.disabled = true;
  try {
    const body = JSON.stringify({ number: call.number, call: call.call });
    await ask("calls/end", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    element("told").textContent = `Call ${call.number} is ending.`;
  } catch (error) {
    element("told").textContent = `Call ${call.number} was not ended: ${error.message}.`;
    button.disabled = false;
  }
}

function endButton(call) {
  const button = document.createElement("button");
  button.type = "button";
  let timer = 0;
  const calm = () => {
    clearTimeout(timer);
    delete button.dataset.sure;
    button.textContent = "End";
    button.setAttribute("aria-label", `End call ${call.number}`);
  };
  calm();
  button.addEventListener("click", () => {
    if ("sure" in button.dataset) {
      calm();
      end(call, button);
      return;
    }
    button.dataset.sure = "";
    button.textContent = "Really?";
    button.setAttribute("aria-label", `Really end call ${call.number}`);
    timer = setTimeout(calm, SURE);
  });
  button.addEventListener("blur", calm);
  return button;
}

function makeRow(call, columns) {
  const row = document.createElement("tr");
  const cells = Object.fromEntries(
    Object.keys(columns).map((name) => {
      const cell = row.insertCell();
      cell.dataset.name = name;
      return [name, cell];
    }),
  );
  const button = endButton(call);
  row.insertCell().append(button);
  return { row, cells, button };
}

function show({ calls, columns, limit, ready }) {
  const head = element("head");
  if (!head.children.length) {
    for (const [name, words] of [...Object.entries(columns), ["end", ""]]) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.dataset.name = name;
      cell.textContent = words;
      head.append(cell);
    }
  }
  for (const call of calls) {
    if (!rows.has(call.number)) {
      rows.set(call.number, makeRow(call, columns));
      element("rows").append(rows.get(call.number).row);
    }
    const { cells, button } = rows.get(call.number);
    for (const [name, { text, tone }] of Object.entries(call.cells)) {
      if (cells[name].textContent !== text) cells[name].textContent = text;
      cells[name].dataset.tone = tone;
    }
    if (call.state === "ending") button.disabled = true;
  }
  const live = new Set(calls.map((call) => call.number));
  for (const [number, { row }] of rows) {
    if (!live.has(number)) {
      row.remove();
      rows.delete(number);
    }
  }
  element("none").hidden = calls.length > 0;
  const most = limit === null ? "" : ` of ${limit}`;
  element("summary").textContent = `${calls.length}${most} live${ready ? "" : ", no new calls are taken"}`;
}

async function look() {
  try {
    show(await ask("calls/live"));
    trouble("");
  } catch (error) {
    trouble(`These figures are old: ${error.message}.`);
  }
  setTimeout(look, SECOND);
}

look();
