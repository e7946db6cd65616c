package probe

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// traffic judges what the client experienced, and where its packets went.
func (j *judge) traffic() {
	j.answered()
	j.everyBackend()
	j.maglev()
	j.answersAgree()
	j.sameBackend()
}

func (j *judge) answered() {
	f := j.begin(everyAnswer, "each request for /whoami gets its answer")
	for _, x := range j.Exchanges {
		if x.Err != nil {
			f.fault(nil, "%s: %v", x.Client, x.Err)
		}
	}
	j.end(f, "%d requests from %d clients' ports", len(j.Exchanges), len(j.own))
}

func (j *judge) everyBackend() {
	f := j.begin(everyBackendReached, fmt.Sprintf("each of the service's %d backends answers", len(j.Service.Backends)))
	answers := map[string]int{}
	for _, x := range j.Exchanges {
		if x.Err == nil {
			answers[x.Answer.Name]++
		}
	}
	var seen []string
	for _, name := range j.Service.Backends {
		seen = append(seen, fmt.Sprintf("%s %d", name, answers[name]))
		if answers[name] == 0 {
			f.fault(nil, "%s never answered", name)
		}
	}
	j.end(f, "answers: %s", abridged(seen))
}

func (j *judge) maglev() {
	f := j.begin(maglevBackend,
		fmt.Sprintf("packets of a flow are sent to slot jhash mod %d of the table", tableSize(j.Service)), placeOf(j.balancer))
	flows := map[flow]bool{}
	for _, p := range j.ownRequests() {
		flows[p.flow] = true
		want, name := j.expected(p.flow)
		if to := sentTo(p.out); to != want.Addr() {
			f.fault(p.all(), "%s was sent to %s, the table names %s (%s)", p.flow.client, j.nameOf(to), name, want)
		}
	}
	if len(flows) == 0 {
		f.fault(nil, "no packet of the probe's flows left the balancer")
	}
	j.end(f, "%d packets of %d flows", len(j.ownRequests()), len(flows))
}

func (j *judge) answersAgree() {
	f := j.begin(answerAgrees, "name, address and OS as in the topology", placeOf(j.balancer))
	for _, x := range j.Exchanges {
		if x.Err != nil {
			continue // judged elsewhere
		}
		node, known := j.Topology.Nodes[x.Answer.Name]
		switch to := j.sent[j.flowOf(x.Client)]; {
		case !known:
			f.fault(nil, "%s: the answer names %q, which is no node", x.Client, x.Answer.Name)
		case node.Address != x.Answer.Address || string(node.OS) != x.Answer.OS:
			f.fault(nil, "%s: %s says of itself %s, %s; the topology says %s, %s",
				x.Client, x.Answer.Name, x.Answer.Address, x.Answer.OS, node.Address, node.OS)
		case len(to) == 0:
			f.fault(nil, "%s: %s answered, but no packet was seen going there", x.Client, x.Answer.Name)
		case !slices.Contains(to, node.Address):
			f.fault(nil, "%s: %s answered, packets went to %v", x.Client, x.Answer.Name, to)
		}
	}
	j.end(f, "%d answers", len(j.Exchanges))
}

func (j *judge) sameBackend() {
	f := j.begin(sameTuple, "one backend for each client address and port, however often it connects", placeOf(j.balancer))
	connections := map[netip.AddrPort]int{}
	for _, x := range j.Exchanges {
		connections[x.Client]++
	}
	repeated := 0
	for client, n := range connections {
		if n < 2 {
			continue
		}
		repeated++
		if to := j.sent[j.flowOf(client)]; len(to) != 1 {
			f.fault(nil, "%s connected %d times and was sent to %v", client, n, to)
		}
	}
	if repeated == 0 {
		f.open = "no 5-tuple was used twice"
	}
	j.end(f, "%d 5-tuples used more than once", repeated)
}

// transfers judges the large downloads and uploads.
func (j *judge) transfers() {
	for _, kind := range []struct {
		upload bool
		name   string
	}{{false, downloadWhole}, {true, uploadWhole}} {
		expected := "as many bytes as sent, with the same SHA-256"
		count := 0
		f := j.begin(kind.name, expected)
		var seen []string
		for _, x := range j.Transfers {
			if x.Upload != kind.upload {
				continue
			}
			count++
			seen = append(seen, fmt.Sprintf("%d bytes in %.2f s", x.ReceivedBytes, x.Took.Seconds()))
			switch {
			case x.Err != nil:
				f.fault(nil, "%s: %v", x.Client, x.Err)
			case x.ReceivedBytes != x.Bytes:
				f.fault(nil, "%s: %d of %d bytes arrived", x.Client, x.ReceivedBytes, x.Bytes)
			case x.ReceivedSum != x.SentSum:
				f.fault(nil, "%s: SHA-256 %s arrived, %s was sent", x.Client, x.ReceivedSum, x.SentSum)
			}
		}
		if count == 0 {
			j.skip(kind.name, expected, "no transfer was made over "+string(j.Service.Protocol))
			continue
		}
		j.end(f, "%s", strings.Join(seen, ", "))
	}
}
