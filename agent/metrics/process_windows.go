package metrics

import (
	"unsafe"

	"golang.org/x/sys/windows"
)

// maxHandles is how many handles a process may have on any Windows
// ("Pushing the Limits of Windows: Handles": 16 Mi).
const maxHandles = 16 << 20

// memoryCounters is PROCESS_MEMORY_COUNTERS_EX of psapi.h.
type memoryCounters struct {
	size, pageFaults           uint32
	peakWorkingSet, workingSet uintptr
	peakPagedPool, pagedPool   uintptr
	peakNonPaged, nonPaged     uintptr
	pagefile, peakPagefile     uintptr
	private                    uintptr
}

func (p process) show() {
	self := windows.CurrentProcess()
	var created, ended, kernel, user windows.Filetime
	if err := windows.GetProcessTimes(self, &created, &ended, &kernel, &user); err == nil {
		p.times(duration(kernel)+duration(user), float64(created.Nanoseconds()/1e9))
	}
	kernel32 := windows.NewLazySystemDLL("kernel32.dll")
	var memory memoryCounters
	memory.size = uint32(unsafe.Sizeof(memory))
	// K32GetProcessMemoryInfo is GetProcessMemoryInfo since Windows 7.
	if ok, _, _ := kernel32.NewProc("K32GetProcessMemoryInfo").Call(uintptr(self), uintptr(unsafe.Pointer(&memory)), uintptr(memory.size)); ok != 0 {
		p.memory(float64(memory.private), float64(memory.workingSet))
	}
	var handles uint32
	if ok, _, _ := kernel32.NewProc("GetProcessHandleCount").Call(uintptr(self), uintptr(unsafe.Pointer(&handles))); ok != 0 {
		p.openFiles(float64(handles))
		p.maxFiles(maxHandles)
	}
}

// duration is in seconds; a FILETIME of processor time counts 100 ns.
func duration(t windows.Filetime) float64 {
	return float64(uint64(t.HighDateTime)<<32|uint64(t.LowDateTime)) / 1e7
}
