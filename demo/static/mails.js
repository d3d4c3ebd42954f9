// Keeps the list of mails up to date while some are unfinished, and the page quiet when nobody looks.
// Without this file the page still works: its list has a Refresh link, and reloads itself.
"use strict";

const FIRST_DELAY = 400, LAST_DELAY = 5000, EASING = 1.5; // milliseconds; a change starts over with the first

const list = document.getElementById("list");
const news = document.getElementById("news");
const template = document.getElementById("item");
let unfinished = list.dataset.unfinished === "true";
let delay = FIRST_DELAY;
let timer;

function show(mail) {
  let item = [...list.children].find((one) => one.dataset.id === mail.id);
  const isNew = !item; // sent from another tab
  if (isNew) {
    item = template.content.firstElementChild.cloneNode(true);
    item.dataset.id = mail.id;
    item.querySelector(".subject").textContent = mail.subject;
    item.querySelector(".to").textContent = mail.to;
    list.prepend(item);
  }
  const status = item.querySelector(".status");
  if (!isNew && status.dataset.status === mail.status) return false;
  status.dataset.status = status.textContent = mail.status;
  item.querySelector(".note").textContent = mail.note;
  news.textContent = `${mail.subject}, to ${mail.to}: ${mail.status}. ${mail.note}`;
  return true;
}

async function poll() {
  try {
    const response = await fetch(list.dataset.url, { headers: { Accept: "application/json" } });
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    const answer = await response.json();
    // Oldest first, so that new ones end up in the right order; all of them, hence no short cut.
    const changes = answer.mails.reverse().filter(show).length;
    document.getElementById("empty").hidden = list.children.length > 0;
    unfinished = answer.unfinished;
    delay = changes ? FIRST_DELAY : Math.min(delay * EASING, LAST_DELAY);
  } catch {
    delay = Math.min(delay * EASING, LAST_DELAY); // the server restarts, or the phone is in a tunnel: ask again
  }
  wait();
}

function wait() {
  clearTimeout(timer);
  if (unfinished && !document.hidden) timer = setTimeout(poll, delay);
}

document.addEventListener("visibilitychange", () => {
  delay = FIRST_DELAY;
  wait();
});

document.getElementById("refresh").addEventListener("click", (event) => {
  event.preventDefault(); // a reload would throw away what is being typed
  clearTimeout(timer);
  poll();
});

document.getElementById("form").addEventListener("submit", (event) => {
  event.target.querySelector("button").disabled = true; // a double click would send two mails
});

window.addEventListener("pageshow", () => {
  document.querySelector("#form button").disabled = false; // back from the cache of visited pages
});

wait();
