#!/usr/bin/env bash
# Runs the Pester tests of the PowerShell scripts, where there is a pwsh with
# Pester 5: they need no Windows (a Hyper-V host in memory stands in for it).
#
#   scripts/pester.sh
#
# Exit code 0: they passed. 1: some failed. 3: left out, and the message says
# why; scripts/test.sh counts that.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v pwsh >/dev/null; then
	echo "no pwsh (PowerShell 7) on this machine" >&2
	exit 3
fi
if ! pwsh -NoLogo -NoProfile -NonInteractive -Command '
	exit [int](-not (Get-Module -ListAvailable -Name Pester | Where-Object { $_.Version.Major -ge 5 }))'; then
	echo "pwsh has no Pester 5 (Install-Module Pester)" >&2
	exit 3
fi
exec pwsh -NoLogo -NoProfile -NonInteractive -Command '
	$ErrorActionPreference = "Stop"
	Import-Module -Name Pester -MinimumVersion 5.0
	$result = Invoke-Pester -Path "lab/powershell/transfer", "lab/provider/hyperv/scripts", "lab/role/windows/guestscripts" -PassThru
	exit [int]($result.FailedCount -gt 0 -or $result.TotalCount -eq 0)'
