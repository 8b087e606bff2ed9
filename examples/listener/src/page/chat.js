// The chat's page: one WebSocket, opened again when it is lost.
"use strict";

const $ = (id) => document.getElementById(id);
const LONGEST_WAIT = 15000;
const MOST_LINES = 500;

let name = "";
let socket = null;
let seen = 0; // The number of the last message that was shown.
let wait = 500;

$("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  name = $("name").value.trim();
  if (name === "") return;
  $("enter").hidden = true;
  $("room").hidden = false;
  $("text").focus();
  connect();
});

$("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (text === "") return;
  if (socket === null || socket.readyState !== WebSocket.OPEN) {
    notice("There is no connection at the moment; your message was not sent.");
    return;
  }
  notice("");
  socket.send(text);
  $("text").value = "";
});

function connect() {
  status("Connecting …", "");
  const url = new URL("/chat", location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  url.searchParams.set("name", name);
  url.searchParams.set("after", seen);
  socket = new WebSocket(url);
  socket.addEventListener("open", () => {
    wait = 500;
    status(`In the room as ${name}`, "open");
  });
  socket.addEventListener("message", (event) => hear(JSON.parse(event.data)));
  socket.addEventListener("close", (event) => {
    // 1001: the server stops, which is how a new release looks from here.
    const why = event.code === 1001 ? "The server restarts" : event.reason || "The connection was lost";
    status(`${why}; trying again …`, "lost");
    setTimeout(connect, wait);
    wait = Math.min(wait * 2, LONGEST_WAIT);
  });
}

function hear(told) {
  switch (told.type) {
    case "message": {
      seen = told.number;
      const author = document.createElement("b");
      author.textContent = `${told.author}:`;
      line("", author, document.createTextNode(` ${told.text}`));
      break;
    }
    case "missed":
      line("note", document.createTextNode(`${told.count} messages were missed: this connection was too slow.`));
      break;
    case "refused":
      notice(told.reason);
      break;
  }
}

function line(kind, ...parts) {
  const log = $("messages");
  // Whoever has scrolled up is reading: do not pull that away.
  const following = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  const item = document.createElement("li");
  if (kind !== "") item.className = kind;
  item.append(...parts);
  log.append(item);
  while (log.children.length > MOST_LINES) log.firstElementChild.remove();
  if (following) log.scrollTop = log.scrollHeight;
}

function status(text, kind) {
  $("status").textContent = text;
  $("status").className = kind;
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = text === "";
}
