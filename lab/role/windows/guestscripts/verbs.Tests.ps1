# Pester 5: the guest's verbs that need nothing of Windows. scripts/pester.sh runs it.

BeforeAll {
    function Invoke-Verb([string] $Name, [hashtable] $Parameters) {
        & (Join-Path -Path $PSScriptRoot -ChildPath "$Name.ps1") @Parameters
    }
}

Describe 'files' {
    It 'are written once, probed, read in pieces and removed once' {
        $path = Join-Path -Path $TestDrive -ChildPath 'deep/x.txt'
        $data = [Convert]::ToBase64String([System.Text.Encoding]::UTF8.GetBytes('abcdef'))
        (Invoke-Verb 'file-write' @{ Path = $path; Data = $data }).changed | Should -BeTrue
        (Invoke-Verb 'file-write' @{ Path = $path; Data = $data }).changed | Should -BeFalse
        (Invoke-Verb 'file-probe' @{ Path = $path }).bytes | Should -Be 6
        $piece = Invoke-Verb 'file-read' @{ Path = $path; Offset = 2; Bytes = 3 }
        [System.Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($piece.data)) | Should -Be 'cde'
        $piece.bytes | Should -Be 6
        (Invoke-Verb 'file-remove' @{ Path = $path }).changed | Should -BeTrue
        (Invoke-Verb 'file-remove' @{ Path = $path }).changed | Should -BeFalse
    }

    It 'may be empty' {
        $path = Join-Path -Path $TestDrive -ChildPath 'empty'
        (Invoke-Verb 'file-write' @{ Path = $path; Data = '' }).changed | Should -BeTrue
        (Invoke-Verb 'file-probe' @{ Path = $path }).bytes | Should -Be 0
    }
}

Describe 'exec' {
    It 'says that there is no such program' {
        $parameters = @{ Program = (Join-Path -Path $TestDrive -ChildPath 'none'); Arguments = @(); Stdin = ''; Seconds = 1 }
        $code = ''
        try { $null = Invoke-Verb 'exec' $parameters } catch { $code = ([string]$_.FullyQualifiedErrorId -split ',')[0] }
        $code | Should -Be 'notFound'
    }
}
