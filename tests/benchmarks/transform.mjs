// The transform's work as a Node function: node transform.mjs INVOCATION.json. For each line on standard input it
// answers one invocation and prints the nanoseconds; for the line "reply" it prints the reply instead.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

const CONTEXT_LINE =
  /^sluice\/1 request_id=(\S*) extended_request_id=(\S+) time=(\d+) ip=(\S*) user_agent=(\S*)((?: (?:event_id|position|received_at)=\S+)*)\n/;
const TEXT_COLUMNS = ["name", "action", "source", "user_id"];
const KNOWN_BOTS =
  /(?<!cu)(?<!ro)bot\b|crawler\b|spider\b|slurp\b|headlesschrome|lighthouse|pingdom|facebookexternalhit/i;

function handle(event) {
  return { records: event.records.map(answer) };
}

function answer(record) {
  const { request, body } = readRecord(Buffer.from(record.data, "base64").toString("utf8"));
  const found = JSON.parse(body);
  let rows = "";
  (Array.isArray(found) ? found : [found]).forEach((event, position) => {
    const row = makeRow(event, request, position);
    if (row !== null) rows += JSON.stringify(row) + "\n";
  });
  const data = rows === "" ? record.data : Buffer.from(rows, "utf8").toString("base64");
  return { recordId: record.recordId, result: rows === "" ? "Dropped" : "Ok", data };
}

function readRecord(text) {
  const line = CONTEXT_LINE.exec(text);
  const end = `\nsluice/end extended_request_id=${line[2]}\n`;
  if (!text.endsWith(end)) throw new Error("the record is not whole");
  const request = {
    requestId: line[1],
    extendedRequestId: line[2],
    time: Number(line[3]),
    ip: truncate(line[4]),
    userAgent: Buffer.from(line[5], "base64").toString("utf8"),
  };
  return { request, body: text.slice(line[0].length, -end.length) };
}

function truncate(ip) {
  return ip.slice(0, ip.lastIndexOf(".")) + ".0"; // the measured addresses are IPv4
}

function makeRow(event, request, position) {
  const eventId = event.event_id || makeEventId(event, request, position);
  for (const column of TEXT_COLUMNS) {
    if (typeof event[column] === "string") event[column] = event[column].trim();
  }
  if (event.debug === true || KNOWN_BOTS.test(request.userAgent)) return null;
  const { event_id: _, name, action, value, source, user_id, timestamp, properties: own, ...others } = event;
  const occurredAt = timestamp ? Date.parse(timestamp) : request.time;
  if (Number.isNaN(occurredAt)) throw new Error("the text is no time");
  if (name && name.length > 256) throw new Error("name is too long");
  const number = value === undefined ? null : Number(value);
  if (number !== null && !Number.isFinite(number)) throw new Error("value must be a number");
  return {
    event_id: eventId,
    name: name || null,
    action: action || null,
    value: number,
    source: source || null,
    user_id: user_id || null,
    occurred_at: formatTime(occurredAt),
    received_at: formatTime(request.time),
    clock_skew_ms: timestamp ? occurredAt - request.time : null,
    properties: JSON.stringify(own ? { ...others, ...own } : others),
    ip: request.ip,
    user_agent: request.userAgent,
    request_id: request.requestId,
  };
}

function makeEventId(event, request, position) {
  const text = `${request.extendedRequestId} ${position} ${JSON.stringify(event)}`;
  return createHash("sha256").update(text).digest("hex").slice(0, 32);
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
    const before = process.hrtime.bigint();
    handle(invocation);
    console.log(String(process.hrtime.bigint() - before));
  }
});
