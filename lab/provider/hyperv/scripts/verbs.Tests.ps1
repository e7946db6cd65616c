# Pester 5: the verbs of switches and machines against a host in memory
# (testdata/HyperVStub). Needs no Windows; scripts/pester.sh runs it.

BeforeAll {
    Import-Module -Name (Join-Path -Path $PSScriptRoot -ChildPath 'testdata/HyperVStub/HyperVStub.psm1') -Force
    $mark = 'l4lab lab=demo owner=0123456789abcdef'

    # Runs a verb and returns the code of its error.
    function Get-Code([scriptblock] $Verb) {
        try { $null = & $Verb } catch { return ([string]$_.FullyQualifiedErrorId -split ',')[0] }
        'none'
    }
    function Invoke-Verb([string] $Name, [hashtable] $Parameters) {
        & (Join-Path -Path $PSScriptRoot -ChildPath "$Name.ps1") @Parameters
    }
}

Describe 'switch-ensure' {
    BeforeEach { Reset-HyperVStub }

    It 'makes a switch once' {
        $first = Invoke-Verb 'switch-ensure' @{ Name = 'l4lab-demo'; Mark = $mark }
        $second = Invoke-Verb 'switch-ensure' @{ Name = 'l4lab-demo'; Mark = $mark }
        $first.changed | Should -BeTrue
        $second.changed | Should -BeFalse
        $second.switch.addresses | Should -Be @('20.1.1.100/24')
        $second.switch.routes[0].via | Should -Be '20.1.1.1'
    }

    It 'leaves the switch of somebody else alone' {
        $null = New-VMSwitch -Name 'l4lab-demo' -SwitchType 'Internal' -Notes 'mine'
        Get-Code { Invoke-Verb 'switch-ensure' @{ Name = 'l4lab-demo'; Mark = $mark } } | Should -Be 'foreign'
    }

    It 'takes a hostile name as a name' {
        $name = "a' `$(throw) `"``; Remove-Item"
        (Invoke-Verb 'switch-ensure' @{ Name = $name; Mark = $mark }).switch.name | Should -Be $name
    }
}

Describe 'switch-remove' {
    BeforeEach { Reset-HyperVStub }

    It 'removes a switch once' {
        $null = New-VMSwitch -Name 'l4lab-demo' -SwitchType 'Internal' -Notes $mark
        (Invoke-Verb 'switch-remove' @{ Name = 'l4lab-demo'; Mark = $mark }).removed | Should -BeTrue
        (Invoke-Verb 'switch-remove' @{ Name = 'l4lab-demo'; Mark = $mark }).removed | Should -BeFalse
    }

    It 'keeps a switch that a machine is connected to' {
        $null = New-VMSwitch -Name 'l4lab-demo' -SwitchType 'Internal' -Notes $mark
        $null = Add-StubMachine -Name 'demo-lb' -Notes "$mark node=lb" -State 'Off' -SwitchName 'l4lab-demo'
        Get-Code { Invoke-Verb 'switch-remove' @{ Name = 'l4lab-demo'; Mark = $mark } } | Should -Be 'inUse'
    }
}

Describe 'vm-start, vm-state and vm-stop' {
    BeforeEach {
        Reset-HyperVStub
        $vm = Add-StubMachine -Name 'demo-lb' -Notes "$mark node=lb" -State 'Off' -SwitchName 'l4lab-demo'
    }

    It 'turns a machine on and off, once each' {
        (Invoke-Verb 'vm-start' @{ ID = [string]$vm.Id; Mark = $mark }).changed | Should -BeTrue
        (Invoke-Verb 'vm-start' @{ ID = [string]$vm.Id; Mark = $mark }).changed | Should -BeFalse
        (Invoke-Verb 'vm-state' @{ ID = [string]$vm.Id; Mark = $mark }).heartbeat | Should -Be 'OkApplicationsHealthy'
        (Invoke-Verb 'vm-stop' @{ ID = [string]$vm.Id; Mark = $mark; Seconds = 0 }).changed | Should -BeTrue
        (Invoke-Verb 'vm-stop' @{ ID = [string]$vm.Id; Mark = $mark; Seconds = 0 }).changed | Should -BeFalse
    }

    It 'touches no machine without the mark' {
        Get-Code { Invoke-Verb 'vm-start' @{ ID = [string]$vm.Id; Mark = 'l4lab lab=other owner=0' } } | Should -Be 'foreign'
    }

    It 'says that there is no such machine' {
        Get-Code { Invoke-Verb 'vm-state' @{ ID = [string][guid]::NewGuid(); Mark = $mark } } | Should -Be 'notFound'
    }
}
