// Drivers send fixes: each iteration is one fix of one driver, RATE a second.
import http from "k6/http";
import exec from "k6/execution";
import { check } from "k6";
import { Counter } from "k6/metrics";
import { LOGISTICS, RATE, as, drivers, even, fix } from "./lib.js";

const fixes = new Counter("fixes");

export const options = {
  scenarios: { gps: even(RATE) },
  thresholds: {
    http_req_duration: ["p(95)<100"],
    http_req_failed: ["rate<0.001"],
    dropped_iterations: ["count==0"],
  },
};

export default function () {
  const { id, token } = drivers[exec.scenario.iterationInTest % drivers.length];
  const url = `${LOGISTICS}/api/v1/drivers/${id}/location`;
  const params = { headers: as(token), tags: { name: "POST /drivers/{id}/location" } };
  const answer = http.post(url, JSON.stringify(fix(id)), params);
  if (check(answer, { "fix is accepted": (answer) => answer.status === 202 })) fixes.add(1);
}
