"""The files around a server: a proxy that shows devices Flower's fleet API alone, a systemd unit, containers.

Flower's node authentication protects `/v1/fleet` only: whoever reaches the SuperLink's other paths can start runs and
remove nodes. So the SuperLink listens on loopback, and devices reach it through a proxy that passes nothing else.

The SuperLink parses a body before it knows whose it is. So the proxy takes a body in whole, onto disk, before it passes
it on: what a stranger withholds never reaches the SuperLink. It bounds the size of bodies and the connections of an
address; `SUPERLINK_CONNECTIONS` bodies at most are in the SuperLink's memory at once.
"""

import getpass
import os
import shutil
import sys
from pathlib import Path

from fedquit.files import explained, write_whole
from fedquit.server.federation import Federation
from fedquit.server.provision import watching_files
from fedquit.server.provision.containers.container_files import write_container_files

LARGEST_BODY = 8
"""MiB. Flower sends an array in chunks of 5 MiB, and the names of a message's objects in one body: some 150 bytes for
each tensor, so that there is room for 50,000."""
SUPERLINK_CONNECTIONS = 32
"""Connections to the SuperLink at once, of milliseconds each; beyond it the proxy says 502, and Flower tries again."""
STALLED = "30s"
"""A connection that sends nothing of a request for so long is closed."""
WAIT = "600s"


def write_deployment_files(folder: Path, federation: Federation, at: Path | None = None) -> None:
    """Write the files for whoever runs these parts themselves into FOLDER/deploy of a server.

    Args:
        folder: of the server.
        federation: its config.
        at: where the folder will be when they are used; None: where it is.
    """
    deploy, folder = folder / "deploy", (at or folder).resolve()
    with explained(deploy):
        deploy.mkdir(exist_ok=True)
    texts = {
        "nginx.conf": nginx(federation, folder),
        "Caddyfile": caddy(federation, folder),
        f"fedquit-{federation.name}.service": systemd_unit(federation, folder),
        "prometheus-rules.yml": watching_files.alert_rules(federation),
        "grafana-dashboard.json": watching_files.dashboard(federation),
    }
    for name, text in texts.items():
        write_whole(deploy / name, text.encode())
        (deploy / name).chmod(0o644)
    write_container_files(deploy, federation)


def nginx(federation: Federation, folder: Path) -> str:
    """Return the configuration of nginx for the server in `folder`; it needs no rights beyond that folder's."""
    server, proxy = federation.server, folder / "proxy"
    user = (
        "user root;\n" if hasattr(os, "geteuid") and os.geteuid() == 0 else ""
    )  # else its workers could not write to the folder
    return f"""# Made by `fedquit provision`: devices reach /v1/fleet/ of the SuperLink with TLS, and nothing else.
{user}daemon off;
worker_processes auto;
pid {proxy}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    server_tokens off;
    client_body_temp_path {proxy}/body;
    proxy_temp_path {proxy}/proxied;
    fastcgi_temp_path {proxy}/unused;
    uwsgi_temp_path {proxy}/unused;
    scgi_temp_path {proxy}/unused;
    limit_conn_zone $binary_remote_addr zone=addresses:1m;
    client_header_timeout {STALLED};
    client_body_timeout {STALLED};
    reset_timedout_connection on;
    upstream superlink {{
        zone superlink 64k;
        server 127.0.0.1:{server.superlink_port} max_conns={SUPERLINK_CONNECTIONS};
    }}
    server {{
        listen {_listen(server.bind, server.fleet_port)} ssl;
        ssl_certificate {folder}/server.pem;
        ssl_certificate_key {folder}/server.key;
        ssl_protocols TLSv1.2 TLSv1.3;
        limit_conn addresses {server.connections_per_address};
        client_max_body_size {LARGEST_BODY}m;
        location /v1/fleet/ {{
            proxy_pass https://superlink;
            proxy_ssl_trusted_certificate {folder}/ca.crt;
            proxy_ssl_name localhost;
            proxy_ssl_verify on;
            proxy_http_version 1.1;
            proxy_set_header Host localhost;
            proxy_set_header Connection "";
            proxy_request_buffering on;
            proxy_buffering on;
            proxy_read_timeout {WAIT};
            proxy_send_timeout {WAIT};
        }}
        location / {{ return 404; }}
    }}
}}
"""


def caddy(federation: Federation, folder: Path) -> str:
    """Return a Caddyfile that does the same as `nginx`, except that it does not bound the connections of an address."""
    server = federation.server
    return f"""# Made by `fedquit provision`: devices reach /v1/fleet/ of the SuperLink with TLS, and nothing else.
{{
    admin off
    auto_https off
    servers {{
        timeouts {{
            read_header {STALLED}
            read_body {WAIT}
        }}
    }}
}}
:{server.fleet_port} {{
    bind {server.bind}
    tls {folder}/server.pem {folder}/server.key
    request_body {{
        max_size {LARGEST_BODY}MiB
    }}
    handle /v1/fleet/* {{
        reverse_proxy https://127.0.0.1:{server.superlink_port} {{
            header_up Host localhost
            request_buffers {LARGEST_BODY}MiB
            transport http {{
                tls_trusted_ca_certs {folder}/ca.crt
                tls_server_name localhost
                read_timeout {WAIT}
                max_conns_per_host {SUPERLINK_CONNECTIONS}
            }}
        }}
    }}
    respond 404
}}
"""


def systemd_unit(federation: Federation, folder: Path) -> str:
    """Return a unit that runs `fedquit serve` for the server in `folder`, as the user who provisions."""
    command = shutil.which("fedquit", path=str(Path(sys.executable).parent)) or shutil.which("fedquit") or "fedquit"
    return f"""# Made by `fedquit provision`. Copy to /etc/systemd/system/fedquit-{federation.name}.service, then
#   systemctl daemon-reload && systemctl enable --now fedquit-{federation.name}
[Unit]
Description=fedquit server of {federation.name}
After=network-online.target
Wants=network-online.target

[Service]
ExecStart={command} serve {folder}
User={getpass.getuser()}
Restart=always
RestartSec=5
TimeoutStopSec=60
KillMode=mixed
UMask=0077
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={folder}

[Install]
WantedBy=multi-user.target
"""


def _listen(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
