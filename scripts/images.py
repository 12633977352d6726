"""Checks that docker-compose.yml and the Dockerfile name nothing that does not exist.

Usage: images.py FOLDER, where FOLDER has the binaries. Run by scripts/images.sh.
"""

import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from ruamel.yaml import YAML

BINARIES = Path(sys.argv[1])
COMPOSE = YAML(typ="safe").load(Path("docker-compose.yml"))
DOCKERFILE = Path("Dockerfile").read_text().replace("\\\n", " ")
wrong: list[str] = []


def need(holds, message: str) -> None:
    if not holds:
        wrong.append(message)


def run(words: list[str], env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=env or {}, capture_output=True, text=True, timeout=60)


def stages() -> dict[str, dict]:
    """The Dockerfile's stages with what they set, each on top of the one it begins from."""
    all: dict[str, dict] = {}
    now: dict = {}
    for line in DOCKERFILE.splitlines():
        words = line.split()
        if not words or line.startswith("#"):
            continue
        match words[0]:
            case "FROM":
                name = words[3] if len(words) > 3 else words[1]
                base = all.get(words[1], {})
                now = {"env": dict(base.get("env", {})), "entrypoint": [], "command": []}
                all[name] = now
            case "ENV":
                now["env"].update(word.split("=", 1) for word in shlex.split(line)[1:])
            case "ENTRYPOINT":
                now["entrypoint"] = YAML(typ="safe").load(line.split(None, 1)[1])
            case "CMD":
                now["command"] = YAML(typ="safe").load(line.split(None, 1)[1])
            case "COPY":
                source = [word for word in words if word.startswith("--from=")]
                need(not source or source[0].split("=")[1] in all, f"Dockerfile: no stage for {line}")
                for path in words[1 + len(source):-1]:
                    built = path.startswith("/out/")
                    place = BINARIES / path.removeprefix("/out/") if built else Path(path)
                    need(place.exists(), f"Dockerfile: there is no {path} to copy")
    return all


class Program:
    """What a binary says of itself."""

    def __init__(self, name: str) -> None:
        self.path = BINARIES / name
        help = run([str(self.path), "--help"]).stdout
        section = re.search(r"^Commands:\n(.*?)\n\n", help, re.S | re.M)
        if section:
            self.commands = set(re.findall(r"^  (\S+)", section[1], re.M)) - {"help"}
            inner = [run([str(self.path), command, "--help"]).stdout for command in self.commands]
            help = "\n".join([help, *inner])
        else:
            section = re.search(r"<COMMAND>.*?Possible values:\n(.*?)\n\n", help, re.S)
            self.commands = set(re.findall(r"^ +- ([^:\s]+):", section[1], re.M)) if section else set()
        # A secret is shown without `=`, and may come from a file.
        found = re.findall(r"\[env:\s+(\w+)(=?)", help)
        self.settings = {name for name, _ in found}
        self.settings |= {f"{name}_FILE" for name, shown in found if not shown}


def check_names(name: str, service: dict) -> None:
    """What a service refers to by name is declared."""
    for other in service.get("depends_on", {}):
        need(other in COMPOSE["services"], f"{name} depends on {other}, which does not exist")
    for kind in ("networks", "secrets"):
        for item in service.get(kind, []):
            need(item in COMPOSE[kind], f"{name}: {item} is not among the {kind}")
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        if source.startswith("."):
            need(Path(source).is_file(), f"{name}: there is no file {source}")
        else:
            need(source in COMPOSE["volumes"], f"{name}: there is no volume {source}")
    for secret in re.findall(r"/run/secrets/(\w+)", str(service)):
        need(secret in service.get("secrets", []), f"{name} does not get the secret {secret}")


def check_scripts(name: str, service: dict) -> None:
    """Programs of ours that a shell starts have the commands that it starts them with."""
    if service.get("entrypoint", [""])[0] != "sh":
        return
    for binary, command in re.findall(r"^\s*(devstack|menu-api) ([a-z-]+)", "\n".join(service.get("command", [])), re.M):
        known = Program(binary).commands
        need(command in known, f"{name}: {binary} {command} is no command; there are {known}")


def check_care(name: str, service: dict) -> None:
    """Nothing takes all of the machine, and what runs on is watched."""
    need("logging" in service, f"{name}: its log is not rotated")
    if service.get("restart") == "no" or "profiles" in service:
        return
    limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
    need({"cpus", "memory"} <= limits.keys(), f"{name} has no limits of CPU and memory")
    need("nofile" in service.get("ulimits", {}), f"{name} has no limit of descriptors")
    need("healthcheck" in service, f"{name} has no health check")


def value_of(text: str) -> str:
    """What a value is without an .env file."""
    return re.sub(r"\$\{\w+(?::?-([^}]*(?:\{\w+\}[^}]*)?))?\}", lambda found: found[1] or "", text)


def check_program(name: str, service: dict, stage: dict, secrets: Path) -> None:
    """The commands exist, the settings are known, and the program accepts them all."""
    entrypoint = service.get("entrypoint") or stage["entrypoint"]
    binary = entrypoint[0] if "build" in service or "image" in service else ""
    if not (BINARIES / binary).exists() or binary in ("", "sh"):
        return
    program = Program(binary)
    command = service.get("command", stage["command"]) if len(entrypoint) == 1 else entrypoint[1:]
    check = service.get("healthcheck", {}).get("test", ["CMD", binary, *command])[1:]
    for words in ([binary, *command], check):
        known = words[0] == binary and words[1] in program.commands
        need(known, f"{name}: {shlex.join(words)} is no command; there are {program.commands}")
    own = service.get("environment", {})
    for setting in own.keys() | stage["env"].keys():
        need(setting in program.settings, f"{name}: {binary} has no setting {setting}")
    if binary == "devstack":
        return
    # Started as in its container, but with an address that is taken: it says so once it has
    # accepted its settings.
    env = {**stage["env"], **{key: value_of(str(value)) for key, value in own.items() if value is not None}}
    env = {key: value.replace("/run/secrets", str(secrets)) for key, value in env.items()}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = [key for key in env if key.endswith("_LISTEN")]
        need(len(listen) == 1, f"{name}: the image of {binary} sets no address")
        env.update({key: f"127.0.0.1:{taken.getsockname()[1]}" for key in listen})
        said = run([str(program.path), *command], env)
    need("cannot listen on" in said.stderr, f"{name}: {said.stderr.strip() or said.stdout.strip()}")


def check_variables() -> None:
    """.env.example has what compose reads, and nothing else."""
    text = Path("docker-compose.yml").read_text()
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", text))
    for service in COMPOSE["services"].values():
        settings = service.get("environment", {})
        used |= {name for name, value in settings.items() if value is None}
    named = set(re.findall(r"^#?([A-Z_]+)=", Path(".env.example").read_text(), re.M))
    need(used == named, f".env.example and docker-compose.yml differ in {sorted(used ^ named)}")


def main() -> None:
    images = stages()
    services = COMPOSE["services"]
    targets = {service["image"]: service["build"]["target"] for service in services.values() if "build" in service}
    with tempfile.TemporaryDirectory() as folder:
        secrets = Path(folder) / "secrets"
        subprocess.run(["scripts/secrets.sh", str(secrets)], check=True, stderr=subprocess.DEVNULL)
        for secret, source in COMPOSE["secrets"].items():
            made = (secrets / Path(value_of(source["file"])).name).is_file()
            need(made and Path(source["file"]).name == secret, f"scripts/secrets.sh makes no {secret}")
        for name, service in services.items():
            check_names(name, service)
            check_care(name, service)
            check_scripts(name, service)
            if service["image"] not in targets:
                continue
            target = targets[service["image"]]
            need(target in images, f"{name}: the Dockerfile has no stage {target}")
            if target in images:
                check_program(name, service, images[target], secrets)
    check_variables()
    for message in wrong:
        print(f"images.py: {message}", file=sys.stderr)
    if wrong:
        sys.exit(1)
    print(f"images.py: {len(services)} services, {len(targets)} images")


os.chdir(Path(__file__).parent.parent)
main()
