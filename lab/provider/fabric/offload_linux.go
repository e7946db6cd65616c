package fabric

import (
	"fmt"
	"slices"

	"github.com/safchain/ethtool"
)

// checksumFeature is ethtool's name of the offload that leaves checksums to the card.
const checksumFeature = "tx-checksum-ip-generic"

// LeavesChecksums says whether an interface still has the checksum offload on.
func LeavesChecksums(ns Namespace, name string) (on bool, err error) {
	err = ns.Do(func() error {
		e, err := ethtool.NewEthtool()
		if err != nil {
			return err
		}
		defer e.Close()
		features, err := e.Features(name)
		on = features[checksumFeature]
		return err
	})
	if err != nil {
		return false, fmt.Errorf("read the offloads of %s: %w", name, err)
	}
	return on, nil
}

// mergingFeatures are ethtool's names of what makes a frame of several: in
// sending (TSO, GSO) and in receiving (GRO).
var mergingFeatures = [...]string{
	"tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-tcp-ecn-segmentation", "tx-tcp-mangleid-segmentation",
	"tx-generic-segmentation", "tx-udp-segmentation", "tx-sctp-segmentation", "rx-gro",
}

// FinishFrames has an interface of a namespace send and receive frames as they
// are on a wire: checksums filled in, none longer than the MTU. What a capture
// elsewhere sees of them is then what was sent.
func FinishFrames(ns Namespace, name string) error {
	return turnOff(ns, name, append(mergingFeatures[:], checksumFeature)...)
}

// turnOff turns features off as far as the kernel knows them.
func turnOff(ns Namespace, name string, features ...string) error {
	err := ns.Do(func() error {
		e, err := ethtool.NewEthtool()
		if err != nil {
			return err
		}
		defer e.Close()
		known, err := e.Features(name)
		if err != nil {
			return err
		}
		off := map[string]bool{}
		for feature, on := range known {
			if on && slices.Contains(features, feature) {
				off[feature] = false
			}
		}
		if len(off) == 0 {
			return nil
		}
		return e.Change(name, off)
	})
	if err != nil {
		return fmt.Errorf("turn offloads of %s off: %w", name, err)
	}
	return nil
}
