<#
.SYNOPSIS
Ends and removes a service of the lab.
.DESCRIPTION
Needs: nothing.
Makes: nothing.
Returns: changed, what.
Errors: foreign: the service was not made by the lab.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $Name
)

function Stop-Verb([string] $Code, [string] $Message, [object] $Target) {
    throw [System.Management.Automation.ErrorRecord]::new([System.Exception]::new($Message), $Code, 'NotSpecified', $Target)
}

# The spec that the lab keeps with a service, $null when the service is not the lab's.
function Get-Spec([string] $Service) {
    $key = "HKLM:\SYSTEM\CurrentControlSet\Services\$Service\Parameters"
    if (Test-Path -LiteralPath $key) { (Get-Item -LiteralPath $key).GetValue('L4LabSpec') }
}

$service = Get-CimInstance -ClassName 'Win32_Service' | Where-Object { $_.Name -eq $Name }
if (-not $service) { return [pscustomobject]@{ changed = $false; what = @() } }
if ($null -eq (Get-Spec $Name)) { Stop-Verb 'foreign' 'the lab did not make this service' $Name }
Stop-Service -Name $Name -Force
$deleted = Invoke-CimMethod -InputObject $service -MethodName 'Delete'
if ($deleted.ReturnValue -ne 0) { throw "the service manager refused to remove the service: $($deleted.ReturnValue)" }
# It goes when its last handle does.
$deadline = [datetime]::UtcNow.AddSeconds(30)
while ((Get-Service | Where-Object { $_.Name -eq $Name }) -and [datetime]::UtcNow -lt $deadline) { Start-Sleep -Milliseconds 200 }

[pscustomobject]@{ changed = $true; what = @('service removed') }
