"""Hosts to try a cluster on: namespaces of this machine that Ray and SSH take for machines.

Each host has its own address, name, processes, home, /tmp and SSH server; it sees the rest of the
disk, but cannot write there. A bridge joins the hosts and leads nowhere else: there is no route
out. Nothing of this has a name on the machine, so that several runs go side by side, and the kernel
removes all of it when the process that made it ends, in whatever way. Only a folder may be left.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SUBNET = "10.77.0"
PERSPECTIVE = "8.8.8.8"
"""Ray asks the kernel from which address it would reach this one, to learn its own. The route to it
ends at the bridge."""
PROGRAMS = ("ip", "nsenter", "unshare", "rsync", "ssh", "ssh-keygen", "sshd")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid")
PR_SET_PDEATHSIG = 1

INIT = """
set -eu
folder=$1 name=$2 shared=$3 kept=$4
inside() { case $1/ in "$2"/*) true;; *) false;; esac; }
for path in $shared; do mount --rbind "$path" "$path"; done
for covered in "$HOME" /tmp; do
    mkdir -p "$folder$covered"
    for path in $kept $shared; do
        if inside "$path" "$covered"; then
            mkdir -p "$folder$path"
            mount --rbind "$path" "$folder$path"
            for writable in $shared; do [ "$path" = "$writable" ] && continue 2; done
            mount -o remount,bind,ro "$folder$path"
        fi
    done
done
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
mkdir -p /run/sshd /run/host
cp "$folder"/ssh/* /run/host
mount --bind /run/host/names /etc/hosts
[ ! -e /etc/resolv.conf ] || mount --bind /dev/null /etc/resolv.conf
# The folder lies in what is covered: the first to be mounted there would hide the second.
mkdir /run/host/folder
mount --rbind "$folder" /run/host/folder
for covered in "$HOME" /tmp; do mount --rbind "/run/host/folder$covered" "$covered"; done
umount -l /run/host/folder
mount -o remount,bind,ro /
hostname "$name"
ip link set lo up
cd /
"$(command -v sshd)" -D -e -f /run/host/config &
while :; do wait || true; sleep 1; done
"""
"""What the first process of a host does. It must stay a shell: that collects orphans that end."""

NICENESS = {"RAY_worker_niceness": "0"}
"""As in tests/conftest.py: other tests are no reason for a cluster's workers to starve."""
SSHD = """HostKey /run/host/key
AuthorizedKeysFile /run/host/key.pub .ssh/authorized_keys
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
MaxStartups 100
""" + "".join(f"SetEnv {name}={value}\n" for name, value in NICENESS.items())


@cache
def why_not() -> str | None:
    """Return why there can be no hosts on this machine, None where there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts are namespaces of Linux, which only root may make"
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if missing:
        return f"hosts need {', '.join(missing)} (Debian: iproute2, openssh-server, rsync)"
    probe = "ip link add probe0 type bridge && ip link add probe1 type veth && mount -t tmpfs tmpfs /run"
    result = subprocess.run(
        ["unshare", *NAMESPACES, "--fork", "--mount-proc", "sh", "-c", probe],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        return f"the kernel lets nobody make hosts here: {result.stderr.strip()}"
    return None


class Host:
    """One host, as seen from outside.

    Attributes:
        name: Its host name.
        address: Its address on the bridge.
        home: Its home, as a path outside.
        addresses: All its addresses, if it was given more.
    """

    def __init__(self, hosts: "Hosts", number: int, name: str) -> None:
        self.hosts, self.name, self.port = hosts, name, f"port{number}"
        self.address = f"{SUBNET}.{number + 1}"
        self.addresses = [self.address]
        self.folder = hosts.folder / name
        self.home = self.folder / Path.home().relative_to("/")
        self.init = 0

    def __repr__(self) -> str:
        return f"{self.name} ({', '.join(self.addresses)})"

    def start(self) -> None:
        """Make the namespaces and plug the host into the bridge."""
        (self.folder / "ssh").mkdir(parents=True)
        for file in ("key", "key.pub"):
            shutil.copy(self.hosts.key.with_name(file), self.folder / "ssh")
        (self.folder / "ssh" / "config").write_text(SSHD)
        shutil.copy(self.hosts.folder / "names", self.folder / "ssh")
        keep = {sys.prefix, sys.base_prefix, str(ROOT)}
        lists = [" ".join(map(str, paths)) for paths in (self.hosts.share, sorted(keep))]
        self.init = self.hosts.spawn(
            [*NAMESPACES, "--mount-proc"], ["bash", "-c", INIT, "init", self.folder, self.name, *lists]
        )  # fmt: skip
        self.hosts.in_bridge(
            f"ip link add {self.port} type veth peer name eth0 netns {self.init}\n"
            f"ip link set {self.port} master bridge up"
        )
        self.net(
            "ip link set eth0 up",
            f"ip address add {self.address}/24 dev eth0",
            f"ip route add {PERSPECTIVE}/32 dev eth0",
        )

    def net(self, *commands: str) -> None:
        """Run commands of ``ip`` in the host's network."""
        enter = ["nsenter", "--net", "--target", str(self.init), "sh", "-e", "-c"]
        subprocess.run([*enter, "\n".join(commands)], check=True, env={"PATH": PATH})

    def add_address(self, address: str) -> None:
        """Give the host one more address, from which it speaks, and let all others reach it."""
        self.net(
            f"ip address add {address}/32 dev eth0",
            f"ip route replace {PERSPECTIVE}/32 dev eth0 src {address}",
        )
        self.addresses.append(address)
        for other in self.hosts.all:
            if other is not self:
                other.net(f"ip route replace {address}/32 dev eth0")

    def drop_addresses(self) -> None:
        """Leave the host with the address it was made with."""
        for address in self.addresses[1:]:
            self.net(f"ip address del {address}/32 dev eth0")
            for other in self.hosts.all:
                if other is not self:
                    other.net(f"ip route del {address}/32 dev eth0")
        del self.addresses[1:]

    def authorize(self, public: str) -> None:
        """Let in who has the key of which this is the public half."""
        (self.home / ".ssh").mkdir(exist_ok=True)
        (self.home / ".ssh" / "authorized_keys").write_text(public)

    def command(self, command: Sequence[Any], env: Mapping[str, str]) -> dict[str, Any]:
        """Return the arguments for subprocess that run a command on the host, in its home."""
        home = str(Path.home())
        own = {
            "HOME": home,
            "USER": "root",
            "LOGNAME": "root",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            **NICENESS,
            "PATH": f"{Path(sys.executable).parent}:{PATH}",
        }
        if self.init == 0:
            raise RuntimeError(f"{self.name} is not there")
        enter = ["nsenter", *NAMESPACES, f"--target={self.init}", f"--wdns={home}"]
        return {"args": [*enter, *map(str, command)], "env": own | dict(env)}

    def run(
        self,
        command: Sequence[Any],
        env: Mapping[str, str] = {},
        timeout: float = 60,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host and return what it printed, stderr among it.

        Raises:
            AssertionError: If it fails although ``check``, with what it printed.
        """
        process = self.begin(command, env, stdout=subprocess.PIPE)
        try:
            printed, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as expired:
            process.kill()
            said = (expired.stdout or b"").decode(errors="replace")
            raise AssertionError(f"{self.name}: {command} takes too long:\n{said}") from None
        if check and process.returncode:
            raise AssertionError(
                f"{self.name}: {command} ended with {process.returncode}:\n{printed}"
            )
        return subprocess.CompletedProcess(command, process.returncode, printed, "")

    def begin(
        self, command: Sequence[Any], env: Mapping[str, str] = {}, stdout: Any = None
    ) -> "subprocess.Popen[str]":
        """Start a command on the host; what still runs when the hosts end is killed then."""
        process = subprocess.Popen(
            **self.command(command, env),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.hosts.begun.append(process)
        return process

    def processes(self, word: str = "") -> dict[int, str]:
        """Return the command lines that contain a word, by the process numbers outside."""
        space, found = os.readlink(f"/proc/{self.init}/ns/pid"), {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(folder / "ns" / "pid") != space or int(folder.name) == self.init:
                    continue
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:
                continue
            if line and word in line:
                found[int(folder.name)] = line
        return found

    def ray(self) -> dict[int, str]:
        """Return Ray's processes and what they started."""
        marks = ("ray::", "/ray/", "ray start", "study.run")
        return {
            pid: line
            for pid, line in self.processes().items()
            if any(mark in line for mark in marks)
        }

    def left(self) -> list[str]:
        """Return what runs that did not when the host was made."""
        return [line for line in self.processes().values() if not line.startswith("sshd: ")]

    def kill(self, word: str | None = None) -> int:
        """Kill, with SIGKILL, what has the word in its command line; without one all of Ray."""
        pids = self.ray() if word is None else self.processes(word)
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return len(pids)

    def cut(self) -> None:
        """Pull the cable: packets are lost, nobody is told."""
        self.hosts.in_bridge(f"ip link set {self.port} down")

    def heal(self) -> None:
        """Plug it in again."""
        self.hosts.in_bridge(f"ip link set {self.port} up")


class Hosts:
    """So many hosts and one more, ``laptop``, to command them from; use as a context manager.

    Args:
        count: How many.
        share: Existing folders that all of them, and the machine, read and write.

    Attributes:
        key: File of the SSH key that opens every host; on a host it is ``/run/host/key``.
    """

    def __init__(self, count: int, share: Sequence[Path] = ()) -> None:
        self.share = list(share)
        self.folder = Path(tempfile.mkdtemp(prefix="hosts-"))
        self.key = self.folder / "key"
        self.roots: list[subprocess.Popen[bytes]] = []
        self.begun: list[subprocess.Popen[str]] = []
        self.bridge = 0
        names = ["laptop", *(f"host{n}" for n in range(count))]
        self.all = [Host(self, number, name) for number, name in enumerate(names)]
        self.laptop = self.all[0]

    def __len__(self) -> int:
        return len(self.all) - 1

    def __getitem__(self, number: int) -> Host:
        return self.all[1:][number]

    def __enter__(self) -> "Hosts":
        if (why := why_not()) is not None:
            raise RuntimeError(why)
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _start(self) -> None:
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "hosts", "-f", self.key]
        subprocess.run(keygen, check=True)
        lines = [f"{host.address} {host.name}" for host in self.all]
        (self.folder / "names").write_text("\n".join(["127.0.0.1 localhost", *lines]) + "\n")
        self.bridge = self.spawn(["--net"], ["sleep", "infinity"])
        self.in_bridge("ip link add bridge type bridge\nip link set bridge up")
        for host in self.all:
            host.start()
        for host in self.all:
            self._wait_for(host)
        if (way := self.way_out()) is not None:
            raise RuntimeError(f"the hosts must have no way out, but {way}")

    def _wait_for(self, host: Host) -> None:
        deadline = time.monotonic() + 20
        while not host.processes("sshd: "):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{host.name} has no SSH server: {host.processes()}")
            time.sleep(0.1)

    def spawn(self, namespaces: list[str], command: Sequence[Any]) -> int:
        """Start a process in namespaces of its own that ends with this one; return its number."""
        prctl = ctypes.CDLL(None).prctl
        with (self.folder / "errors").open("a") as errors:
            process = subprocess.Popen(
                ["unshare", *namespaces, "--fork", "--kill-child", *map(str, command)],
                env={"PATH": PATH, "HOME": str(Path.home())},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
                preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
            )
        self.roots.append(process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not (child := children.read_text().split()):
            if process.poll() is not None:
                raise RuntimeError((self.folder / "errors").read_text())
            time.sleep(0.01)
        return int(child[0])

    def in_bridge(self, commands: str) -> None:
        """Run commands of ``ip`` where the bridge is."""
        enter = ["nsenter", "--net", "--target", str(self.bridge), "sh", "-e", "-c", commands]
        subprocess.run(enter, check=True, env={"PATH": PATH})

    def way_out(self) -> str | None:
        """Return how a packet could leave the hosts, None where none can."""
        own = os.readlink("/proc/self/ns/net")
        for name, pid in [("the bridge", self.bridge), *((h.name, h.init) for h in self.all)]:
            if os.readlink(f"/proc/{pid}/ns/net") == own:
                return f"{name} is in the machine's own network"
            enter = ["nsenter", "--net", "--target", str(pid), "ip", "-o"]
            links, routes = (
                subprocess.run([*enter, *what], check=True, capture_output=True, text=True).stdout
                for what in (["-d", "link"], ["route", "show", "table", "all"])
            )
            for link in links.splitlines():
                if not any(kind in link for kind in ("loopback", "veth", "bridge")):
                    return f"{name} has another link: {link}"
            if "default" in routes or "via" in routes:
                return f"{name} has a route: {routes}"
        return None

    def close(self) -> None:
        """End every process of the hosts, and with them all else; safe to repeat."""
        for process in self.roots:
            process.kill()
        for process in self.roots:
            process.wait()
        inits = [host.init for host in self.all] + [self.bridge]
        while any(pid and Path(f"/proc/{pid}").exists() for pid in inits):
            time.sleep(0.05)
        for begun in self.begun:
            begun.kill()
            begun.wait()
            if begun.stdout is not None:
                begun.stdout.close()
        self.roots, self.begun = [], []
        # What was mounted there was so in the hosts alone; a doubt must not cost files.
        if str(self.folder) not in Path("/proc/self/mountinfo").read_text():
            shutil.rmtree(self.folder, ignore_errors=True)
