// An executor that turns a valve, a little further each time, and each time under a permit.
//
//     node main.js billing [MILLISECONDS from one turn to the next]
//
// Ends with 3 and the reason when it is denied, and with 0 at Ctrl-C or SIGTERM. It does not renew
// its lease: LEASE_EXPIRED ends it, too.

import { setTimeout as pause } from "node:timers/promises";
import { Executor } from "./lease.js";

const ACTION = "valve.turn";
const VALVE = "//bank.example/cellar/valve";
const PACE_MS = 200;

function turn(degrees, fence) {
  console.log(`valve at ${degrees} under fence ${fence}`); // the valve compares the fence
}

// Works until it is denied, or told to stop. Returns the denial, or null.
async function work(executor, lease, stopping, paceMs) {
  let denial = null;
  const unwatch = executor.watch(lease, (found) => {
    denial = found;
    stopping.abort();
  });
  for (let degrees = 0; !stopping.signal.aborted; degrees++) {
    const answer = await executor.check(lease);
    if (stopping.signal.aborted) break; // while the answer was on its way
    if (!answer.permitted) {
      denial = answer;
      break;
    }
    if (answer.isGood()) turn(degrees, answer.fence); // nothing is awaited between the two
    await pause(paceMs, null, { signal: stopping.signal }).catch(() => {});
  }
  unwatch();
  return denial;
}

async function main(directory, paceMs) {
  const executor = new Executor(directory);
  const stopping = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => stopping.abort());
  const lease = await executor.acquire(ACTION, VALVE);
  const denial = lease.id ? await work(executor, lease, stopping, paceMs) : lease;
  if (lease.id) await executor.release(lease);
  executor.close();
  if (denial) console.log(`stopped: ${denial.reason} ${denial.thing}`);
  return denial ? 3 : 0;
}

const [directory = "billing", pace = PACE_MS] = process.argv.slice(2);
process.exitCode = await main(directory, Number(pace));
