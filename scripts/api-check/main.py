"""Checks that the services do what their OpenAPI documents say. Runs within `devstack exec --services`.

The documents must be valid and make working clients; then Schemathesis calls every operation as
each role, with what the document allows and with what it does not.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import time

import httpx
import openapi_spec_validator
import seed
import clients

HERE = pathlib.Path(__file__).parent
SUBJECTS = {"customer": seed.CUSTOMER, "driver": seed.DRIVER, "operator": seed.OPERATOR}


def token(role, subject, restaurants=()):
    command = [os.environ["API_CHECK_DEVSTACK"], "token", "--role", role, "--subject", str(subject)]
    if restaurants:
        command += ["--restaurants", ",".join(map(str, restaurants))]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def roles_of(operation):
    """Who may call an operation; nobody is a caller without a token."""
    return [role for need in operation.get("security", []) for role in need["bearer"]] or ["nobody"]


def operations_of(document):
    return [operation for item in document["paths"].values() for operation in item.values()]


def shares(document, role, arguments):
    """Returns the operations that are called as this role without their boundary cases, and those
    that are called once, as it does not get in.

    The boundaries of parameters and bodies do not depend on the role: the first that an operation
    names tries them. Operations for everybody look at no token and are nobody's here."""
    inner, once = [], []
    for operation in operations_of(document):
        roles = roles_of(operation)
        if role not in roles:
            once.append(operation["operationId"])
        elif role != roles[0] and not arguments.every_boundary:
            inner.append(operation["operationId"])
    return inner, once


def schemathesis(service, role, url, ids, out, arguments):
    """Returns the exit code of one run, how long it took and its numbers of cases."""
    headers = []
    if role != "nobody":
        restaurants = ids["restaurant_id"][:1] if role == "operator" else ()
        mine = token(role, SUBJECTS.get(role, 1), restaurants)
        headers = ["--header", f"Authorization: Bearer {mine}"]
    document = json.loads((out / f"{service}-openapi.json").read_text())
    config = out / f"{service}-{role}.toml"
    text = (HERE / "schemathesis.toml").read_text().replace(
        "[generation]\n", f"[generation]\nmax-examples = {arguments.max_examples}\n")
    inner, once = shares(document, role, arguments)
    for operations, examples in ((inner, arguments.max_examples), (once, 1)):
        if operations:
            text += f"""
[[operations]]
include-operation-id = {json.dumps(operations)}
phases.coverage.enabled = false
generation.max-examples = {examples}
"""
    config.write_text(text)
    report = out / f"{service}-{role}.json"
    command = [
        pathlib.Path(sys.executable).parent / "st", "--config-file", config,
        "run", f"{url}/openapi.json", *headers, "--report", "json", "--report-json-path", report,
        "--seed", str(arguments.seed), "--no-color",
    ]
    environment = {
        **os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE),
        "API_CHECK_IDS": json.dumps(ids),
    }
    begin = time.monotonic()
    with open(out / f"{service}-{role}.txt", "w") as text:
        ended = subprocess.run(
            command, env=environment, cwd=out, stdout=text, stderr=subprocess.STDOUT, check=False)
    cases = json.loads(report.read_text())["test_cases"] if report.exists() else {}
    return ended.returncode, time.monotonic() - begin, cases


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-examples", type=int, default=5, help="cases per operation and phase")
    parser.add_argument("--seed", type=int, default=1, help="other cases with another number")
    parser.add_argument("--service", action="append", help="only this one")
    parser.add_argument("--role", action="append", help="only this one")
    parser.add_argument("--every-boundary", action="store_true",
                        help="boundary cases as each role, not only as the first of each operation")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    urls = {
        "order-api": os.environ["ORDER_URL"], "menu-api": os.environ["MENU_URL"],
        "logistics": os.environ["LOGISTICS_URL"],
    }
    out = pathlib.Path(os.environ["API_CHECK_OUT"])
    out.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    ids = seed.seed(urls, token)
    print(f"seeded after {time.monotonic() - begin:.0f} s")
    failed, roles = [], set()
    for service, url in urls.items():
        document = httpx.get(f"{url}/openapi.json").json()
        (out / f"{service}-openapi.json").write_text(json.dumps(document, indent=1))
        roles.update(role for operation in operations_of(document) for role in roles_of(operation))
        try:
            openapi_spec_validator.validate(document)
        except Exception as error:
            failed.append(f"{service}: the document is not valid: {error}")
    if not failed:
        failed += clients.check(urls, ids, token, out)
    print(f"documents and clients checked after {time.monotonic() - begin:.0f} s")
    runs = [
        (service, role)
        for role in arguments.role or sorted(roles)
        for service in arguments.service or urls
    ]
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        futures = {
            pool.submit(schemathesis, service, role, urls[service], ids, out, arguments):
                (service, role)
            for service, role in runs
        }
        for future in concurrent.futures.as_completed(futures):
            service, role = futures[future]
            code, seconds, cases = future.result()
            print(f"{service} as {role}: {cases.get('unique_failures')} failures in "
                  f"{cases.get('generated')} cases, {seconds:.0f} s", flush=True)
            if code != 0:
                failed.append(f"{service} as {role}: see {out}/{service}-{role}.txt")
    for failure in failed:
        print(f"api-check: {failure}", file=sys.stderr)
    print(f"took {time.monotonic() - begin:.0f} s")
    return 1 if failed else 0


sys.exit(main())
