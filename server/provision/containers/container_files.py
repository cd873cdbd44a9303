"""What `fedquit provision` writes into FOLDER/deploy for containers, and what of it is made for one federation.

- Dockerfile, .dockerignore: the images of a server and of a device, from a wheel
- compose.yaml: the server on one machine with Docker
- chart/, values.yaml: the server, and devices, on Kubernetes: a Helm chart, and this federation's values
"""

from pathlib import Path

from fedquit.files import explained, write_whole
from fedquit.server.federation import Federation

HERE = Path(__file__).resolve().parent
IN_CONTAINER = "/srv/fedquit"
"""Where the images have a server's folder."""


def write_container_files(deploy: Path, federation: Federation) -> None:
    """Write the files into `deploy`, the folder of that name in the server's."""
    texts = {
        Path("compose.yaml"): compose(deploy.stat().st_uid, deploy.stat().st_gid),
        Path("values.yaml"): values(federation),
        Path("Dockerfile"): (HERE / "Dockerfile").read_text(encoding="utf-8"),
        Path(".dockerignore"): (HERE / "dockerignore").read_text(encoding="utf-8"),
    }
    texts |= {path.relative_to(HERE): path.read_text(encoding="utf-8") for path in chart_files()}
    for name, text in texts.items():
        with explained(deploy / name):
            (deploy / name).parent.mkdir(parents=True, exist_ok=True)
        write_whole(deploy / name, text.encode())
        (deploy / name).chmod(0o644)


def chart_files() -> list[Path]:
    """Return the files of the Helm chart."""
    return sorted(path for path in (HERE / "chart").rglob("*") if path.is_file())


def compose(user: int, group: int) -> str:
    """Return a compose file, for the folder `deploy` of a server, that runs it from the image with fedquit and nginx.

    It uses the host's network (Linux): server.toml then says what listens where, and what is on loopback stays there.

    Args:
        user: who owns the folder, by number. The container runs as that one, as nobody else can read the keys.
        group: of the same.
    """
    nginx = "" if user else 'cap_add: ["SETGID"] # root owns the folder: nginx sets its groups\n    '
    return f"""# Made by `fedquit provision`. Put a wheel of fedquit beside it; in this folder: docker compose up -d
services:
  server:
    build:
      context: .
      target: server
    user: "{user}:{group}"
    command: ["fedquit", "serve", "{IN_CONTAINER}"]
    network_mode: host
    restart: unless-stopped
    stop_grace_period: 60s
    read_only: true
    tmpfs: ["/tmp"]
    cap_drop: ["ALL"]
    {nginx}security_opt: ["no-new-privileges:true"]
    volumes: ["..:{IN_CONTAINER}"]
    logging:
      driver: local
      options: {{max-size: "10m", max-file: "4"}}
"""


def values(federation: Federation) -> str:
    """Return what Helm is given for this federation, in addition to the chart's own values."""
    server = federation.server
    return f"""# Made by `fedquit provision`: helm install {federation.name} chart -f values.yaml
# server.toml must have bind = "0.0.0.0" (it has "{server.bind}"), and host must be a name by which devices reach the
# service: {federation.name}-server.NAMESPACE.svc from within the cluster (it has "{server.host}").
server:
  folderSecret: {federation.name}-server
  fleetPort: {server.fleet_port}
  forgetPort: {server.forget_port}
"""
