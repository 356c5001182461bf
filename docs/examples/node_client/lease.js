// The contract of an executor, from the proto files alone: acquire, check, watch, release.
//
// Everything that is not a whole and timely permit is a denial: { permitted: false, reason, thing }.
// Owns the connection and the reading of answers. What is done with a permit is main.js's.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const PROTO = fileURLToPath(new URL("proto", import.meta.url));
const MAX_PERMIT_TTL_MS = 1_000; // the federation's max_permit_ttl_ms
const LEDGER_TIMEOUT_MS = 10_000; // for what a quorum has to decide
const RELEASE_TIMEOUT_MS = 1_000;
const PAUSE_MS = 100; // between repeats of one request
const CLOCK_STEP_MS = 10; // how finely the kernel tells the time in /proc/uptime

export function denied(reason, thing = "") {
  return { permitted: false, reason, thing };
}

// Milliseconds on a clock that nobody sets, and that goes on while the machine sleeps, which
// process.hrtime() does not.
function bootClockMs() {
  return Math.round(Number.parseFloat(readFileSync("/proc/uptime", "ascii")) * 1_000);
}

// The [node] table of client.toml, as `quorate executor issue` writes it: texts, one a line.
function settings(directory) {
  const lines = readFileSync(join(directory, "client.toml"), "utf8").matchAll(
    /^(\w+) = ("(?:[^"\\]|\\.)*")$/gm,
  );
  return Object.fromEntries([...lines].map(([, name, text]) => [name, JSON.parse(text)]));
}

function connect(directory) {
  const { lease_address: address, server_name: name } = settings(directory);
  if (!address || !name) throw new Error(`${directory}/client.toml lacks an address or a name`);
  const [ca, key, certificate] = ["ca.crt", "executor.key", "executor.crt"].map((file) =>
    readFileSync(join(directory, file)),
  );
  const definition = loader.loadSync("quorate/v1/lease.proto", {
    includeDirs: [PROTO],
    longs: String, // a fence does not fit into a JavaScript number
    enums: String, // a verdict or reason that is not in the proto files stays a number
    defaults: true,
  });
  const { LeaseService } = grpc.loadPackageDefinition(definition).quorate.v1;
  return new LeaseService(address, grpc.credentials.createSsl(ca, key, certificate), {
    "grpc.ssl_target_name_override": name,
    "grpc.enable_http_proxy": 0,
    "grpc.enable_retries": 0, // repeats are ours, with a request id
  });
}

// The denial in an answer, or null when it says PERMIT and nothing but PERMIT.
function denialIn(answer) {
  if (answer.verdict === "VERDICT_PERMIT" && answer.reason === "REASON_UNSPECIFIED") return null;
  if (answer.verdict !== "VERDICT_DENY") return denied("MALFORMED_ANSWER", answer.thing);
  return denied(reasonOf(answer), answer.thing);
}

function reasonOf({ reason }) {
  const known = typeof reason === "string" && reason !== "REASON_UNSPECIFIED";
  return known ? reason.replace("REASON_", "") : "UNKNOWN_REASON";
}

function denialOf(error) {
  return denied(error.code === grpc.status.DEADLINE_EXCEEDED ? "LATE" : "UNREACHABLE", error.details);
}

export class Executor {
  #node;

  // directory: made by `quorate executor issue`.
  constructor(directory) {
    this.#node = connect(directory);
  }

  close() {
    this.#node.close();
  }

  // Resolves to an answer, or to { error }. Never rejects.
  #call(method, request, timeoutMs) {
    return new Promise((resolve) => {
      const deadline = Date.now() + timeoutMs;
      this.#node[method](request, { deadline }, (error, answer) =>
        resolve(error ? { error } : answer),
      );
    });
  }

  // A lease, { id, fence, ... }, or a denial. Asked for again under the same id while nobody knows
  // what the ledger decided, which cannot execute it twice. A lease that nobody learns of lapses.
  async acquire(action, resource, ttlMs = 0) {
    const request = { action, resource, ttlMs, requestId: randomUUID() };
    const endMs = bootClockMs() + LEDGER_TIMEOUT_MS;
    for (let leftMs; (leftMs = endMs - bootClockMs()) > 0; await pause(PAUSE_MS)) {
      const answer = await this.#call("acquire", request, leftMs);
      if (answer.error) return denialOf(answer.error);
      if (answer.unknown) continue;
      const { lease } = answer;
      const isOurs = lease?.id && lease.action === action && lease.resource === resource;
      return denialIn(answer) ?? (isOurs ? lease : denied("MALFORMED_ANSWER", resource));
    }
    return denied("OUTCOME_UNKNOWN", resource);
  }

  // A permit, { permitted: true, fence, isGood() }, or a denial. Its life is counted from before the
  // question was sent, so that an answer which was held up on its way is no longer good.
  async check(lease) {
    const sentMs = bootClockMs();
    const answer = await this.#call("check", { leaseId: lease.id }, MAX_PERMIT_TTL_MS);
    if (answer.error) return denialOf(answer.error);
    const denial = denialIn(answer);
    if (denial) return denial;
    const lifeMs = Math.min(Number(answer.ttlMs), MAX_PERMIT_TTL_MS);
    if (answer.fence !== lease.fence || !(lifeMs > 0)) return denied("MALFORMED_ANSWER", lease.id);
    const isGood = () => bootClockMs() + CLOCK_STEP_MS < sentMs + lifeMs;
    return isGood()
      ? { permitted: true, fence: answer.fence, isGood }
      : denied("EXPIRED_ON_ARRIVAL", lease.id);
  }

  // Calls `stop` with a denial, once, as soon as the lease is no longer good, the node has no
  // authority, or nothing is heard any more. Returns a function that ends the watch.
  watch(lease, stop) {
    const stream = this.#node.watch();
    let isOver = false;
    const end = (denial) => {
      if (isOver) return;
      isOver = true;
      stream.cancel();
      if (denial) stop(denial);
    };
    stream.on("data", (notice) => {
      const isGood = notice.event === "WATCH_EVENT_ACTIVE" || notice.event === "WATCH_EVENT_RESTORED";
      if (!isGood) end(denied(reasonOf(notice), notice.thing));
    });
    stream.on("error", (error) => end(denialOf(error)));
    stream.on("end", () => end(denied("UNREACHABLE")));
    stream.write({ leaseIds: [lease.id] });
    return () => end(null);
  }

  // Gives the lease back. When that fails, it lapses by itself.
  async release(lease) {
    await this.#call("release", { leaseId: lease.id, requestId: randomUUID() }, RELEASE_TIMEOUT_MS);
  }
}
