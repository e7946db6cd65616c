package powershell

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestTheCommandLineIsShortEnoughForCmd(t *testing.T) {
	// cmd.exe takes 8,191 characters; WinRM puts some of its own around.
	if n := len(CommandLine()); n > 8000 {
		t.Errorf("the command line has %d characters: the bootstrap is too long", n)
	}
	if bootstrap == "" || strings.Contains(CommandLine(), "\n") {
		t.Error("no bootstrap, or a line end in it")
	}
}

func TestCLIXMLBecomesPlainText(t *testing.T) {
	const objs = `<Objs Version="1.1.0.1" xmlns="http://schemas.microsoft.com/powershell/2004/04">`
	cases := map[string]struct{ raw, want string }{
		"plain text stays":               {"just text\r\n", "just text\r\n"},
		"an error's lines":               {"#< CLIXML\r\n" + objs + `<S S="Error">one_x000D__x000A_</S><S S="Error">two</S></Objs>`, "\r\none\r\ntwo"[2:]},
		"progress goes":                  {"#< CLIXML\r\n" + objs + `<Obj S="progress" RefId="0"><TN RefId="0"><T>x</T></TN><MS><I64 N="SourceId">1</I64><S N="Activity">busy</S></MS></Obj></Objs>`, ""},
		"markup and surrogates":          {"#< CLIXML\n" + objs + `<S S="Error">a &lt; b &amp; _xD83E__xDD80_ _x005F_x</S></Objs>`, "a < b & 🦀 _x"},
		"text before, between and after": {"a#< CLIXML\n" + objs + `<S S="Error">b</S></Objs>c#< CLIXML` + objs + `<S S="Error">d</S></Objs>e`, "abcde"},
		"cut off":                        {"#< CLIXML\r\n" + objs + `<S S="Error">half a li`, "half a li"},
		"other XML":                      {"#< CLIXML\r\n<a><S>x</S></a>", ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := plainText(c.raw); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestLinesOfBase64ComeBackHoweverTheyAreRead(t *testing.T) {
	data := bytes.Repeat([]byte("a\x00\r\n\xff"), 60_000)
	readers := map[string]func(io.Reader) io.Reader{
		"at once": func(r io.Reader) io.Reader { return r }, "in halves": iotest.HalfReader, "with the end": iotest.DataErrReader,
	}
	for name, slow := range readers {
		for _, ends := range []string{"\n", "\r\n"} {
			t.Run(name, func(t *testing.T) {
				var wire bytes.Buffer
				if err := copyLines(&wire, slow(bytes.NewReader(data))); err != nil {
					t.Fatal(err)
				}
				for line := range strings.Lines(wire.String()) {
					if len(line) > lineBytes/3*4+1 {
						t.Fatalf("a line of %d bytes", len(line))
					}
				}
				text := strings.ReplaceAll(wire.String(), "\n", ends) + "behind the end"
				got, err := io.ReadAll(&linesReader{r: bufio.NewReader(slow(strings.NewReader(text)))})
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("%d of %d bytes, %v", len(got), len(data), err)
				}
			})
		}
	}
}

func TestStandardInputThatEndsEarlyIsNotItsEnd(t *testing.T) {
	for text, want := range map[string]error{"": nil, "\n": nil, "eA==\n\n": nil, "eA==\n": io.ErrUnexpectedEOF, "eA==": io.ErrUnexpectedEOF} {
		_, err := io.ReadAll(&linesReader{r: bufio.NewReader(strings.NewReader(text))})
		if !errors.Is(err, want) {
			t.Errorf("%q: got %v, want %v", text, err, want)
		}
	}
}

func TestARequestThatIsNoneIsRefused(t *testing.T) {
	nonce := strings.Repeat("0f", 16)
	for name, text := range map[string]string{
		"nothing": "", "two lines": nonce + "\neA==\n", "a short nonce": "0f\neA==\ne30=\n", "a nonce of other letters": strings.Repeat("zz", 16) + "\neA==\ne30=\n",
		"a script that is no base64": nonce + "\n%\ne30=\n", "parameters that are no object": nonce + "\neA==\nW10=\n", "parameters that are no JSON": nonce + "\neA==\nen0=\n",
	} {
		if _, err := ReadRequest(strings.NewReader(text)); err == nil {
			t.Errorf("%s: was accepted", name)
		}
	}
}

func TestParametersMustBeAnObject(t *testing.T) {
	for _, input := range []any{[]string{"x"}, "x", 7, func() {}} {
		if _, err := opening(newNonce(), Call{Input: input}); err == nil {
			t.Errorf("%T was accepted", input)
		}
	}
}

// A machine may break its answer anywhere, in any encoding of line ends.
func FuzzAnswer(f *testing.F) {
	nonce := strings.Repeat("ab", 16)
	var good bytes.Buffer
	r := NewReply(&good, Request{Nonce: nonce})
	_, _ = r.Stdout().Write([]byte("data"))
	_ = r.End(map[string]string{"x": "ü🦀"}, nil)
	f.Add(good.Bytes(), uint8(7))
	f.Add([]byte("1:%\n2:eA==\n"+beginMark(nonce)+"\r\n{}\r\n"+endMark(nonce)), uint8(1))
	f.Add([]byte("\ufeff"+beginMark(nonce)+"\n{\"ok\":false,\"error\":{}}\n"+endMark(nonce)+"\n"), uint8(3))
	f.Fuzz(func(t *testing.T, wire []byte, size uint8) {
		run := func(size int) (string, string) {
			var out bytes.Buffer
			var result json.RawMessage
			a := newAnswer(nonce, Call{Script: Script{Name: "x"}, Stdout: &out, Result: &result})
			var err error
			for b := wire; len(b) > 0 && err == nil; {
				n := min(len(b), size)
				_, err = a.Write(b[:n])
				b = b[n:]
			}
			if err == nil {
				err = a.result()
			}
			if err != nil {
				return out.String(), a.errorOf("m", err, 0, string(wire)).Error()
			}
			return out.String(), string(result)
		}
		// How the bytes are cut must not matter.
		out1, result1 := run(len(wire) + 1)
		out2, result2 := run(int(size) + 1)
		if out1 != out2 || result1 != result2 {
			t.Errorf("cut otherwise: %q and %q, %q and %q", out1, out2, result1, result2)
		}
	})
}

func FuzzPlainText(f *testing.F) {
	f.Add("#< CLIXML\r\n<Objs><S S=\"Error\">x_x000A_</S></Objs>")
	f.Add("a#< CLIXML<Objs>#< CLIXML</Objs>_xD83E_")
	f.Fuzz(func(t *testing.T, raw string) {
		if !strings.Contains(raw, clixmlMark) && plainText(raw) != raw {
			t.Error("text that is no CLIXML changed")
		}
		_ = plainText(raw)
	})
}

func FuzzReadRequest(f *testing.F) {
	first, _ := opening(newNonce(), Call{Script: Script{Text: "param()"}})
	f.Add(append(first, "eA==\n\n"...))
	f.Fuzz(func(t *testing.T, wire []byte) {
		q, err := ReadRequest(bytes.NewReader(wire))
		if err != nil {
			return
		}
		if !json.Valid(q.Input) || len(q.Nonce) != 32 {
			t.Errorf("accepted %q", wire)
		}
		_, _ = io.Copy(io.Discard, q.Stdin)
	})
}
