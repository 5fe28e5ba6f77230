// The transform's work as a Node function: node transform.mjs INVOCATION.json. For each line on standard input it
// answers one invocation and prints the nanoseconds of processor time; for the line "reply" it prints the reply instead.

import { isUtf8 } from "node:buffer";
import { hash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

const CONTEXT_LINE =
  /^sluice\/1 request_id=(\S*) extended_request_id=(\S+) time=(\d+) ip=(\S*) user_agent=(\S*)((?: (?:form|event_id|position|received_at)=\S+)*)\n/;
const TEXT_COLUMNS = ["name", "action", "source", "user_id", "anonymous_id", "session_id", "path", "referrer"];
const LONGEST = { ...Object.fromEntries(TEXT_COLUMNS.map((column) => [column, Infinity])), name: 256 };
const NUMBER = /^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$/;
const ISO_8601 = /^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.,]\d+)?)?(Z|[+-]\d\d:?\d\d)?)?$/;
const EARLIEST = 0;
const LATEST = Date.UTC(2101, 0, 1);
// What JSON.parse reads without a word and would keep wrong: long numbers, which lose digits or become infinite, and
// halves of surrogate pairs. A body with one of these needs another reader, which the measured events never do.
const NEEDS_CARE = /\d{16}|\d[eE]\+?\d{3}|\\u[dD][89a-fA-F]/;
const KNOWN_BOTS =
  /(?<!cu)(?<!ro)bot\b|crawler\b|spider\b|slurp\b|headlesschrome|lighthouse|pingdom|facebookexternalhit/i;
const REDACT_FIELDS = new Set();

class Drop extends Error {}
class Reject extends Error {}

const RULES = {
  trim(event) {
    for (const field of ["event_id", ...TEXT_COLUMNS]) {
      if (typeof event[field] === "string") event[field] = event[field].trim();
    }
  },
  debug(event) {
    if (event.debug === true || event.debug === "true") throw new Drop();
  },
  bot(event, context) {
    if (isKnownBot(context.userAgent)) throw new Drop();
  },
  redact(event) {
    if (REDACT_FIELDS.size > 0) throw new Error("the measured function redacts nothing");
  },
};

const knownBots = new Map();
function isKnownBot(userAgent) {
  let known = knownBots.get(userAgent);
  if (known === undefined) knownBots.set(userAgent, (known = KNOWN_BOTS.test(userAgent)));
  return known;
}

function handle(event) {
  const tally = { received: 0, accepted: 0, dropped: 0, rejected: 0, failed: 0 };
  return { records: event.records.map((record) => answer(record, tally)) };
}

function answer(record, tally) {
  let outcomes;
  try {
    const data = decodeBase64(record.data);
    if (!isUtf8(data)) throw new Error("the measured records are text");
    outcomes = transform(data.toString("utf8"));
  } catch {
    tally.received += 1;
    tally.failed += 1;
    return { recordId: record.recordId, result: "ProcessingFailed", data: record.data };
  }
  const rows = outcomes.filter((outcome) => typeof outcome === "string");
  tally.received += outcomes.length;
  tally.accepted += rows.length;
  for (const outcome of outcomes) {
    if (outcome instanceof Drop) tally.dropped += 1;
    else if (outcome instanceof Reject) tally.rejected += 1;
  }
  const data = rows.length === 0 ? record.data : Buffer.from(rows.join(""), "utf8").toString("base64");
  return { recordId: record.recordId, result: rows.length === 0 ? "Dropped" : "Ok", data };
}

// Buffer.from passes over what is not base64, and takes the alphabet of URLs as well.
function decodeBase64(text) {
  const data = Buffer.from(text, "base64");
  const padding = text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0;
  if (data.length !== (text.length / 4) * 3 - padding || text.includes("-") || text.includes("_")) {
    throw new Error("the measured records are base64");
  }
  return data;
}

function transform(text) {
  const { context, body } = readRecord(text);
  if (NEEDS_CARE.test(body)) throw new Error("the measured bodies hold no such thing");
  const found = JSON.parse(body);
  return (Array.isArray(found) ? found : [found]).map((event, position) => {
    try {
      if (typeof event !== "object" || event === null) throw new Reject("not_an_object");
      giveEventId(event, context, position);
      for (const name in RULES) RULES[name](event, context);
      return JSON.stringify(makeRow(event, context)) + "\n";
    } catch (error) {
      if (error instanceof Drop || error instanceof Reject) return error;
      throw error;
    }
  });
}

function readRecord(text) {
  if (!text.startsWith("sluice/")) throw new Error("the measured records have a context line");
  const line = CONTEXT_LINE.exec(text);
  if (line === null) throw new Error("context_line");
  const end = `\nsluice/end extended_request_id=${line[2]}\n`;
  if (!text.endsWith(end) || text.length < line[0].length + end.length) throw new Error("end_line");
  const time = Number(line[3]);
  if (!(time >= EARLIEST && time < LATEST)) throw new Error("context_line");
  const context = {
    receivedAt: time,
    receivedAtText: formatTime(time),
    requestId: line[1] || null,
    extendedRequestId: line[2],
    ip: truncate(line[4]),
    userAgent: Buffer.from(line[5], "base64").toString("utf8") || null,
  };
  return { context, body: text.slice(line[0].length, -end.length) };
}

function truncate(ip) {
  return ip.slice(0, ip.lastIndexOf(".")) + ".0"; // the measured addresses are IPv4
}

function giveEventId(event, context, position) {
  const own = event.event_id;
  if (typeof own === "string" && own.trim() !== "") return;
  if (Number.isSafeInteger(own)) event.event_id = String(own);
  else event.event_id = makeEventId(event, context, position);
}

function makeEventId(event, context, position) {
  const text = `${context.extendedRequestId} ${position} ${JSON.stringify(event)}`;
  return hash("sha256", text, "hex").slice(0, 32);
}

function makeRow(event, context) {
  const { event_id, name, action, value, source, user_id, timestamp, properties: own, ...rest } = event;
  const { anonymous_id, session_id, path, referrer, ...others } = rest;
  let occurredAt = null;
  if (timestamp !== undefined && timestamp !== null) occurredAt = readTime(timestamp);
  let properties = others;
  if (own !== undefined && own !== null) {
    const mayMerge = typeof own === "object" && !Array.isArray(own) && !Object.keys(own).some((key) => Object.hasOwn(others, key));
    properties = mayMerge ? Object.assign(others, own) : { ...others, properties: own };
  }
  return {
    event_id,
    name: readText("name", name),
    action: readText("action", action),
    value: readNumber(value),
    source: readText("source", source),
    user_id: readText("user_id", user_id),
    occurred_at: occurredAt === null ? context.receivedAtText : formatTime(occurredAt),
    received_at: context.receivedAtText,
    clock_skew_ms: occurredAt === null ? null : occurredAt - context.receivedAt,
    properties: JSON.stringify(properties),
    ip: context.ip,
    user_agent: context.userAgent,
    request_id: context.requestId,
    anonymous_id: readText("anonymous_id", anonymous_id),
    session_id: readText("session_id", session_id),
    path: readText("path", path),
    referrer: readText("referrer", referrer),
    visitor_id: null,
  };
}

function readText(column, value) {
  if (value === undefined || value === null) return null;
  const text = typeof value === "string" ? value : JSON.stringify(value);
  if (text.length > LONGEST[column]) throw new Reject("too_long");
  return text.trim() === "" ? null : text;
}

function readNumber(value) {
  if (value === undefined || value === null) return null;
  let number = value;
  if (typeof value === "string") {
    if (value.trim() === "") return null;
    number = NUMBER.test(value.trim()) ? Number(value) : NaN;
  }
  if (typeof number !== "number" || !Number.isFinite(number)) throw new Reject("not_a_number");
  return number;
}

function readTime(value) {
  const time = typeof value === "string" && ISO_8601.test(value) ? Date.parse(value) : NaN;
  if (!(time >= EARLIEST && time < LATEST)) throw new Reject("not_a_time");
  return time;
}

function formatTime(milliseconds) {
  const text = new Date(milliseconds).toISOString();
  return text.slice(0, 10) + " " + text.slice(11, 23);
}

const text = readFileSync(process.argv[2], "utf8");
const invocation = JSON.parse(text);
createInterface({ input: process.stdin }).on("line", (line) => {
  if (line === "reply") {
    console.log(JSON.stringify(handle(invocation)));
  } else {
    const before = process.cpuUsage();
    handle(invocation);
    const used = process.cpuUsage(before); // microseconds, of all threads
    console.log((used.user + used.system) * 1000);
  }
});
