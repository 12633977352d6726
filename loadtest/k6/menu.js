// Customers look for restaurants and read menus, each with the ETag it has seen: RATE visits a second.
import http from "k6/http";
import { check } from "k6";
import { MENU, RATE, any, even, kitchens } from "./lib.js";

export const options = {
  scenarios: { menu: even(RATE) },
  thresholds: {
    http_req_duration: ["p(95)<50"],
    http_req_failed: ["rate<0.001"],
    checks: ["rate==1"],
  },
};

/** @type {Record<string, string>} */
const seen = {};

export function setup() {
  return { restaurants: kitchens(100).map((kitchen) => kitchen.id) };
}

/** @param {{ restaurants: number[] }} data */
export default function ({ restaurants }) {
  const list = http.get(`${MENU}/api/v1/restaurants?open_now=true&page_size=20`);
  check(list, { "list is shown": (answer) => answer.status === 200 });
  for (let n = 0; n < 3; n += 1) {
    const id = any(restaurants);
    /** @type {Record<string, string>} */
    const headers = seen[id] ? { "If-None-Match": seen[id] } : {};
    const params = { headers, tags: { name: "GET /restaurants/{id}/menu" } };
    const answer = http.get(`${MENU}/api/v1/restaurants/${id}/menu`, params);
    check(answer, {
      "menu is shown, or unchanged": ({ status }) => status === 200 || status === 304,
    });
    if (answer.headers.Etag) seen[id] = answer.headers.Etag;
  }
}
