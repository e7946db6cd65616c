<#
.SYNOPSIS
Installs a package silently, once.
.DESCRIPTION
Needs: the package.
Makes: the installed product.
Returns: changed, what, reboot.
Errors: notFound: there is no such package. installFailed: it has another SHA-256, or the installer failed; the target is its log's end.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Path,
    [Parameter(Mandatory)] [string] $SHA256,
    [Parameter(Mandatory)] [string] $Product,
    [Parameter(Mandatory)] [AllowNull()] [AllowEmptyCollection()] [AllowEmptyString()] [string[]] $Properties
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

# The version of an installed product, '' when there is none.
function Get-ProductVersion([string] $Name) {
    $entries = @(Get-ChildItem -LiteralPath 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall' |
            Where-Object { [string]$_.GetValue('DisplayName') -eq $Name })
    if ($entries.Count -eq 0) { '' } else { [string]$entries[0].GetValue('DisplayVersion') }
}

if (Get-ProductVersion $Product) { return [pscustomobject]@{ changed = $false; what = @(); reboot = $false } }
if (-not (Test-Path -LiteralPath $Path -PathType 'Leaf')) { Stop-Verb 'notFound' 'there is no such package' $Path }
if ((Get-FileHash -LiteralPath $Path -Algorithm 'SHA256').Hash -ne $SHA256) { Stop-Verb 'installFailed' 'the package has another SHA-256' $Path }
$log = "$Path.log"
$arguments = @('/i', $Path, '/qn', '/norestart', '/l*v', $log) + @($Properties | Where-Object { $_ })
# The pipe makes PowerShell wait for a program that has no console.
& msiexec.exe @arguments | Out-Null
$code = $LASTEXITCODE
# ERROR_SUCCESS_REBOOT_REQUIRED and ERROR_SUCCESS_REBOOT_INITIATED
$reboot = $code -in 3010, 1641
if ($code -ne 0 -and -not $reboot) {
    $end = if (Test-Path -LiteralPath $log) { [System.IO.File]::ReadAllText($log) } else { '' }
    Stop-Verb 'installFailed' "msiexec.exe ended with exit code $code" $end.Substring([math]::Max(0, $end.Length - 2000))
}
if (-not (Get-ProductVersion $Product)) { Stop-Verb 'installFailed' "the package was installed, but $Product is not among the products" $Path }

[pscustomobject]@{ changed = $true; what = @("installed $Product"); reboot = $reboot }
