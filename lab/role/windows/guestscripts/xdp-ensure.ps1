<#
.SYNOPSIS
Installs XDP for Windows and its eBPF part by its own set-up script.
.DESCRIPTION
Needs: a folder with xdp-setup.ps1 and its drivers; test signing where they are test-signed.
Makes: the drivers xdp and its eBPF extension, and XdpEbpfEnabled = 1.
Returns: changed, what, reboot.
Errors: notFound: there is no set-up script. installFailed: it failed; the target is what it printed.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Folder
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

$setup = Join-Path -Path $Folder -ChildPath 'xdp-setup.ps1'
if (-not (Test-Path -LiteralPath $setup -PathType 'Leaf')) { Stop-Verb 'notFound' 'there is no xdp-setup.ps1' $Folder }
$what = @()
$key = 'HKLM:\SYSTEM\CurrentControlSet\Services\xdp\Parameters'
$enabled = if (Test-Path -LiteralPath $key) { (Get-Item -LiteralPath $key).GetValue('XdpEbpfEnabled') } else { $null }
if ($enabled -ne 1) {
    foreach ($part in 'xdp', 'xdpebpf') {
        $arguments = '-NoLogo', '-NoProfile', '-NonInteractive', '-ExecutionPolicy', 'Bypass', '-File', $setup, '-Install', $part
        $output = & powershell.exe @arguments
        if ($LASTEXITCODE -ne 0) { Stop-Verb 'installFailed' "xdp-setup.ps1 -Install $part ended with exit code $LASTEXITCODE" ($output -join "`n") }
        $what += "installed $part"
    }
    # On a key that exists, New-Item would empty it.
    if (-not (Test-Path -LiteralPath $key)) { $null = New-Item -Path $key -ItemType 'Key' -Force }
    $null = New-ItemProperty -LiteralPath $key -Name 'XdpEbpfEnabled' -Value 1 -PropertyType 'DWord' -Force
}

# The value is read when the driver starts.
[pscustomobject]@{ changed = $what.Count -gt 0; what = $what; reboot = $what.Count -gt 0 }
