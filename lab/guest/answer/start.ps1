<#
.SYNOPSIS
Has a Windows guest serve WinRM over HTTPS to its lab, at the end of its first start.
.DESCRIPTION
Runs once, as Local System, from the disc whose other files it reads: lab.json, winrm.pfx.
Needs: an adapter with the MAC address of lab.json.
Makes: the adapter's only IPv4 address, the certificate in the machine's store, WinRM's HTTPS listener, a firewall rule for
the lab's subnet. WinRM's ways to log on stay as they are: NTLM is among them.
Says: what came of it on COM1, the virtual machine's console.
#>
[CmdletBinding()]
param()

$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'

function Write-Console([string] $Line) {
    try {
        $port = [System.IO.Ports.SerialPort]::new('COM1', 115200)
        $port.Open()
        $port.WriteLine("l4lab: $Line")
        $port.Close()
    } catch {
        # A machine without a serial port has nobody to tell.
        $null = $_
    }
}

try {
    $lab = ConvertFrom-Json -InputObject ([System.IO.File]::ReadAllText((Join-Path -Path $PSScriptRoot -ChildPath 'lab.json')))
    Write-Console "the first start of $($lab.name) ends"

    # The card's driver may have been installed a moment ago.
    $deadline = [datetime]::UtcNow.AddMinutes(3)
    while (-not ($adapter = Get-NetAdapter | Where-Object { $_.MacAddress -eq $lab.mac } | Select-Object -First 1) -and [datetime]::UtcNow -lt $deadline) {
        Start-Sleep -Milliseconds 500
    }
    if (-not $adapter) { throw "no adapter has the MAC address $($lab.mac): has the image a driver for the card?" }
    $index = $adapter.ifIndex
    Set-NetIPInterface -InterfaceIndex $index -AddressFamily 'IPv4' -Dhcp 'Disabled'
    Get-NetIPAddress -AddressFamily 'IPv4' | Where-Object { $_.InterfaceIndex -eq $index } | Remove-NetIPAddress -Confirm:$false
    $null = New-NetIPAddress -InterfaceIndex $index -IPAddress $lab.address -PrefixLength ([byte]$lab.prefixLength)

    $flags = [System.Security.Cryptography.X509Certificates.X509KeyStorageFlags]'MachineKeySet, PersistKeySet'
    $pfx = Join-Path -Path $PSScriptRoot -ChildPath 'winrm.pfx'
    $certificate = [System.Security.Cryptography.X509Certificates.X509Certificate2]::new($pfx, $lab.pfxPassword, $flags)
    $store = [System.Security.Cryptography.X509Certificates.X509Store]::new('My', 'LocalMachine')
    $store.Open('ReadWrite')
    $store.Add($certificate)
    $store.Close()

    Set-Service -Name 'WinRM' -StartupType 'Automatic'
    Start-Service -Name 'WinRM'
    # An image may have a listener of its own, whose certificate nobody knows.
    foreach ($old in @(Get-WSManInstance -ResourceURI 'winrm/config/Listener' -Enumerate | Where-Object { $_.Transport -eq 'HTTPS' })) {
        Remove-WSManInstance -ResourceURI 'winrm/config/Listener' -SelectorSet @{ Address = $old.Address; Transport = 'HTTPS' }
    }
    $selectors = @{ Address = '*'; Transport = 'HTTPS' }
    $values = @{ Hostname = $lab.name; CertificateThumbprint = $certificate.Thumbprint }
    $null = New-WSManInstance -ResourceURI 'winrm/config/Listener' -SelectorSet $selectors -ValueSet $values

    if (Get-NetFirewallRule -All | Where-Object { $_.Name -eq 'l4lab-winrm' }) { Remove-NetFirewallRule -Name 'l4lab-winrm' }
    $null = New-NetFirewallRule -Name 'l4lab-winrm' -DisplayName 'l4lab-winrm' -Group 'l4lab' -Direction 'Inbound' -Action 'Allow' `
        -Profile 'Any' -Protocol 'TCP' -LocalPort '5986' -RemoteAddress $lab.subnet
    Write-Console "WinRM listens at $($lab.address)"
} catch {
    Write-Console "the first start failed: $($_.Exception.Message)"
    throw
}
