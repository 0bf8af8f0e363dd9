"""The files in `deploy`: the programs that are installed here accept them, and the others agree with one another."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from nats_process import nats_binary

DEPLOY = Path(__file__).parents[1] / "deploy"
DOCS = DEPLOY.parent / "docs" / "deploy.md"


def run(*command, **environment):
    return subprocess.run(
        command, capture_output=True, text=True, timeout=150, check=False, env={**os.environ, **environment}
    )


def text(name):
    return (DEPLOY / name).read_text(encoding="utf-8")


@pytest.mark.skipif(nats_binary() is None, reason="nats-server is not installed")
def test_nats_accepts_its_settings():
    done = run(nats_binary(), "-c", str(DEPLOY / "nats.conf"), "-t", RTCFLOW_NATS_TOKEN="secret")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_nginx_accepts_its_settings(tmp_path):
    pid = f"pid {tmp_path}/nginx.pid;"
    done = run("nginx", "-t", "-c", str(DEPLOY / "nginx.conf"), "-e", "stderr", "-g", pid)
    assert done.returncode == 0, done.stderr


def test_nginx_logs_no_secret():
    """The URL of a WHIP session gives power over the call; other URLs are logged as they are."""
    (pattern,) = re.findall(r'"~(\S+)" "\$endpoint/\.\.\.";', text("nginx.conf"))
    secret = re.compile(pattern.replace("(?<", "(?P<"))
    assert "$logged_uri" in re.search("log_format .*", text("nginx.conf"))[0]
    for path in ("/whip/aGk", "/whep/aGk", "/talk/whip/a-_9"):
        assert secret.match(path)["endpoint"] == path.rpartition("/")[0]
    for path in ("/whip", "/webrtc/offer", "/", "/talk/whip/"):
        assert secret.match(path) is None


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_unit(tmp_path):
    """But for the program, which is not installed there."""
    unit = tmp_path / "rtcflow.service"
    unit.write_text(text("rtcflow.service").replace("/srv/agent/.venv/bin/rtcflow", "/bin/true"))
    done = run("systemd-analyze", "verify", "--man=no", str(unit))
    assert "rtcflow.service" not in done.stderr, done.stderr


def test_the_relay_has_a_port_for_each_call_and_no_quota_that_all_callers_share():
    """`get_coturn_credentials` gives all of them one user, unless the application names one."""
    settings = dict(line.partition("=")[::2] for line in text("turnserver.conf").splitlines() if "=" in line)
    assert "user-quota" not in settings
    assert int(settings["total-quota"]) <= int(settings["max-port"]) - int(settings["min-port"]) + 1


@pytest.mark.parametrize("name", ["rtcflow.service", "Dockerfile", "compose.yaml", "kubernetes.yaml"])
def test_each_waits_longer_than_the_stream_drains(name):
    """Or the calls that are still talking are killed."""
    (drain,) = {int(found) for found in re.findall(r'--drain"?,? "?(\d+)', text(name))}
    pattern = r"(?:TimeoutStopSec=|stop_grace_period: |terminationGracePeriodSeconds: |--time )(\d+)"
    (grace,) = {int(found) for found in re.findall(pattern, text(name))}
    assert grace > drain


def test_kubernetes_and_compose_are_whole():
    yaml = pytest.importorskip("yaml")
    documents = list(yaml.safe_load_all(text("kubernetes.yaml")))
    kinds = [document["kind"] for document in documents]
    assert kinds == ["Deployment", "Service", "PodDisruptionBudget", "Deployment", "Service"]
    (agent,) = documents[0]["spec"]["template"]["spec"]["containers"]
    assert agent["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert agent["livenessProbe"]["httpGet"]["path"] == "/healthz"
    services = yaml.safe_load(text("compose.yaml"))["services"]
    ports = {service["command"][4] for name, service in services.items() if name.startswith("agent")}
    assert ports == set(re.findall(r"server 127\.0\.0\.1:(\d+)", text("nginx.conf")))


def test_the_page_names_each_file():
    page = DOCS.read_text(encoding="utf-8")
    missing = [file.name for file in DEPLOY.iterdir() if f"`{file.name}`" not in page and file.suffix != ".json"]
    assert not missing
