<#
.SYNOPSIS
Removes what set-up left with a password in it: answer files, and the automatic logon.
.DESCRIPTION
Needs: nothing.
Makes: nothing.
Returns: changed, what.
Errors: none of its own.
#>
[CmdletBinding()]
param()

$what = @()
$files = 'Panther\unattend.xml', 'Panther\unattend-original.xml', 'Panther\Unattend\unattend.xml', 'System32\Sysprep\unattend.xml'
foreach ($file in $files) {
    $path = Join-Path -Path $env:SystemRoot -ChildPath $file
    if (Test-Path -LiteralPath $path) {
        Remove-Item -LiteralPath $path -Force
        $what += $file
    }
}
$key = 'HKLM:\SOFTWARE\Microsoft\Windows NT\CurrentVersion\Winlogon'
$values = (Get-Item -LiteralPath $key).GetValueNames()
foreach ($name in 'DefaultPassword', 'AutoLogonCount') {
    if ($values -contains $name) {
        Remove-ItemProperty -LiteralPath $key -Name $name
        $what += $name
    }
}

[pscustomobject]@{ changed = $what.Count -gt 0; what = $what }
