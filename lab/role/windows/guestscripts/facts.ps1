<#
.SYNOPSIS
Tells what the guest is and has.
.DESCRIPTION
Needs: nothing.
Makes: nothing.
Returns: computer, os, version, bootTime, testSigning, ebpf, xdp, adapters, vips, services, dynamicPortFirst, dynamicPortCount.
Errors: none of its own.
#>
[CmdletBinding()]
param()

# The version of an installed product, '' when there is none.
function Get-ProductVersion([string] $Name) {
    $entries = @(Get-ChildItem -LiteralPath 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall' |
            Where-Object { [string]$_.GetValue('DisplayName') -eq $Name })
    if ($entries.Count -eq 0) { '' } else { [string]$entries[0].GetValue('DisplayVersion') }
}

# The spec that the lab keeps with a service, $null when the service is not the lab's.
function Get-Spec([string] $Service) {
    $key = "HKLM:\SYSTEM\CurrentControlSet\Services\$Service\Parameters"
    if (Test-Path -LiteralPath $key) { (Get-Item -LiteralPath $key).GetValue('L4LabSpec') }
}

$os = Get-CimInstance -ClassName 'Win32_OperatingSystem'
$addresses = @(Get-NetIPAddress -AddressFamily 'IPv4')
$interfaces = @(Get-NetIPInterface -AddressFamily 'IPv4')
$loopback = @($addresses | Where-Object { $_.IPAddress -eq '127.0.0.1' } | ForEach-Object { $_.InterfaceIndex }) +
    @(Get-NetAdapter -IncludeHidden | Where-Object { $_.InterfaceDescription -like 'Microsoft KM-TEST Loopback*' } | ForEach-Object { $_.ifIndex })
$adapters = @()
foreach ($adapter in @(Get-NetAdapter | Where-Object { $loopback -notcontains $_.ifIndex })) {
    $ip = $interfaces | Where-Object { $_.InterfaceIndex -eq $adapter.ifIndex } | Select-Object -First 1
    $adapters += [pscustomobject]@{
        name           = [string]$adapter.Name
        interfaceIndex = [int]$adapter.ifIndex
        mac            = [string]$adapter.MacAddress
        mtu            = $(if ($ip) { [int]$ip.NlMtu } else { 0 })
        addresses      = @($addresses | Where-Object { $_.InterfaceIndex -eq $adapter.ifIndex } | ForEach-Object { '{0}/{1}' -f $_.IPAddress, $_.PrefixLength })
        weakHost       = [bool]($ip -and [string]$ip.WeakHostSend -eq 'Enabled' -and [string]$ip.WeakHostReceive -eq 'Enabled')
    }
}
$services = @()
foreach ($service in @(Get-CimInstance -ClassName 'Win32_Service')) {
    $spec = Get-Spec $service.Name
    if ($null -eq $spec) { continue }
    # 1066 (ERROR_SERVICE_SPECIFIC_ERROR): the program's own code stands elsewhere.
    $code = if ($service.ExitCode -eq 1066) { $service.ServiceSpecificExitCode } else { $service.ExitCode }
    $services += [pscustomobject]@{
        name = [string]$service.Name; state = [string]$service.State; pid = [int]$service.ProcessId; spec = [string]$spec; exitCode = [long]$code
    }
}
$tcp = Get-NetTCPSetting -SettingName 'Internet'
$options = [string](Get-Item -LiteralPath 'HKLM:\SYSTEM\CurrentControlSet\Control').GetValue('SystemStartOptions')
$driver = "$env:SystemRoot\System32\drivers\xdp.sys"

[pscustomobject]@{
    computer         = [string]$env:COMPUTERNAME
    os               = [string]$os.Caption
    version          = [string]$os.Version
    bootTime         = $os.LastBootUpTime.ToUniversalTime().ToString('yyyy-MM-ddTHH:mm:ssZ', [cultureinfo]::InvariantCulture)
    testSigning      = $options -match 'TESTSIGNING'
    ebpf             = Get-ProductVersion 'eBPF for Windows'
    xdp              = $(if (Test-Path -LiteralPath $driver) { [string](Get-Item -LiteralPath $driver).VersionInfo.ProductVersion } else { '' })
    adapters         = $adapters
    vips             = @($addresses | Where-Object { $loopback -contains $_.InterfaceIndex -and -not $_.IPAddress.StartsWith('127.') } |
            ForEach-Object { [string]$_.IPAddress })
    services         = $services
    dynamicPortFirst = [int]$tcp.DynamicPortRangeStartPort
    dynamicPortCount = [int]$tcp.DynamicPortRangeNumberOfPorts
}
