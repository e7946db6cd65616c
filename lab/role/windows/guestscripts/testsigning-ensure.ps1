<#
.SYNOPSIS
Has the system accept test-signed drivers from its next start on.
.DESCRIPTION
Needs: Secure Boot off.
Makes: the boot entry's testsigning option.
Returns: changed, what, reboot.
Errors: none of its own.
#>
[CmdletBinding()]
param()

# What the running system was started with; bcdedit tells only of the next start, and in the system's language.
$options = [string](Get-Item -LiteralPath 'HKLM:\SYSTEM\CurrentControlSet\Control').GetValue('SystemStartOptions')
if ($options -match 'TESTSIGNING') { return [pscustomobject]@{ changed = $false; what = @(); reboot = $false } }
$arguments = '/set', 'testsigning', 'on'
$output = & bcdedit.exe @arguments
if ($LASTEXITCODE -ne 0) { throw "bcdedit.exe ended with exit code $LASTEXITCODE (is Secure Boot off?): $output" }

[pscustomobject]@{ changed = $true; what = @('test signing on'); reboot = $true }
