package e2e

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// failing fails on purpose, to see that a failure leaves what one needs to
// understand it. It is a chapter of runs alone that ask for it.
func (s *suite) failing() {
	It("leaves its evidence", func() {
		t := demo(s.name("fail"), "be1", "be3")
		s.up(t)
		c := talk(s.open(t.Name), vip())
		defer c.close()
		s.suspect(c.local(), vip())
		Expect(c.backend).To(Equal("be9"), "on purpose")
	})

	It("does not keep the next one from running", func() {})
}

// hanging does not end by itself, to see that an end from outside leaves nothing.
func (s *suite) hanging() {
	It("waits in a lab", func() {
		t := demo(s.name("hang"), "be1", "be3")
		s.up(t)
		s.labctl("exec", "--name", t.Name, "client", "--", "sleep", "80")
	})
}
