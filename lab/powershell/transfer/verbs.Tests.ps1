# Pester 5: the verbs of files, which need nothing of Windows. scripts/pester.sh runs it.

BeforeAll {
    function Invoke-Verb([string] $Name, [hashtable] $Parameters) {
        & (Join-Path -Path $PSScriptRoot -ChildPath "$Name.ps1") @Parameters
    }
}

Describe 'files' {
    It 'finds a file, its hash and a part' {
        $path = Join-Path -Path $TestDrive -ChildPath 'x.bin'
        [System.IO.File]::WriteAllText($path, 'abc')
        [System.IO.File]::WriteAllText("$path.part", 'a')
        $found = Invoke-Verb 'file-probe' @{ Path = $path }
        $found.bytes | Should -Be 3
        $found.sha256 | Should -Be 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'
        $found.partBytes | Should -Be 1
        $found.beside | Should -Be 0
        (Invoke-Verb 'file-probe' @{ Path = (Join-Path -Path $TestDrive -ChildPath 'y.bin') }).beside | Should -Be 2
    }
}
