# Runs commands with Debian's python3-winrm: URL, transport and CA file are the
# arguments, the password is in the environment.
import os
import sys

import winrm

url, transport, authority = sys.argv[1:]
password = os.environ["WINRM_PASSWORD"]


def session(secret):
    return winrm.Session(url, auth=("lab", secret), transport=transport, ca_trust_path=authority,
                         read_timeout_sec=10, operation_timeout_sec=5)


def expect(what, got, want):
    if got != want:
        sys.exit(f"{what}: got {got!r}, want {want!r}")


r = session(password).run_cmd("both")
expect("exit code", r.status_code, 3)
expect("standard output", r.std_out, "out: äß\r\n".encode())
expect("standard error", r.std_err, b"err\r\n")
r = session(password).run_cmd("echo", ["one", "two & <three>"])
expect("arguments", r.std_out, b"one two & <three>\r\n")
r = session(password).run_cmd("dir")
expect("an unknown command", r.status_code, 9009)

# A fault comes as one, sealed or not.
p = session(password).protocol
try:
    p.run_command("no-such-shell", "echo")
    sys.exit("a command in no shell was accepted")
except winrm.exceptions.WinRMError as e:
    if "2150858843" not in str(e):
        sys.exit(f"a command in no shell: {e}")

try:
    session("wrong").run_cmd("both")
    sys.exit("a wrong password was accepted")
except winrm.exceptions.InvalidCredentialsError:
    pass
print("all as expected")
