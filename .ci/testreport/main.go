// Command testreport reads what "go test -json" writes and prints what a person
// wants to see: the output of what failed, every skipped test with its reason, and
// go test's own closing line for each package. It fails when a test failed or was
// skipped, or when there was none.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
)

// event is one line of "go test -json"; see "go doc test2json".
type event struct {
	Action     string
	Package    string
	ImportPath string // of a package that does not build
	Test       string
	Output     string
}

func main() {
	maySkip := flag.String("may-skip", "", "regular expression for the names of tests that may be skipped (default none)")
	flag.Parse()
	allowed, err := regexp.Compile(*maySkip)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(2)
	}
	if *maySkip == "" {
		allowed = regexp.MustCompile(`$^`)
	}
	ok, err := report(os.Stdin, os.Stdout, allowed)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

// report copies the essence of r to w and says whether the run is a good one.
func report(r io.Reader, w io.Writer, maySkip *regexp.Regexp) (bool, error) {
	type test struct{ pkg, name string }
	output := map[test][]string{}
	var order []test // of the first output
	var passed, failed int
	var tolerated, skipped []string
	broken := false

	show := func(lines []string) {
		for _, l := range lines {
			fmt.Fprint(w, l)
		}
	}
	in := bufio.NewReader(r)
	for {
		line, readErr := in.ReadString('\n')
		if readErr != nil && readErr != io.EOF {
			return false, readErr
		}
		var e event
		if strings.TrimSpace(line) == "" {
			e.Action = "nothing"
		} else if err := json.Unmarshal([]byte(line), &e); err != nil {
			fmt.Fprint(w, line) // not of the stream: whatever it is, it is not hidden
		}
		key := test{e.Package, e.Test}
		switch {
		case e.Action == "build-output":
			fmt.Fprint(w, e.Output)
		case e.Action == "build-fail":
			broken = true
		case e.Action == "output" && strings.HasPrefix(e.Output, "=== "):
			// It says only when the test ran.
		case e.Action == "output":
			if _, seen := output[key]; !seen {
				order = append(order, key)
			}
			output[key] = append(output[key], e.Output)

		case e.Test != "" && e.Action == "pass":
			passed++
			delete(output, key)
		case e.Test != "" && e.Action == "fail":
			failed++
			show(output[key])
			delete(output, key)
		case e.Test != "" && e.Action == "skip":
			text := e.Package + " " + e.Test + "\n" + strings.Join(output[key], "")
			if maySkip.MatchString(e.Test) {
				tolerated = append(tolerated, text)
			} else {
				skipped = append(skipped, text)
			}
			delete(output, key)

		case e.Action == "fail":
			// With what a crash or a timeout left unfinished.
			broken = true
			for _, k := range order {
				if k.pkg == e.Package && k.name != "" {
					show(output[k])
					delete(output, k)
				}
			}
			show(output[key])
			delete(output, key)
		case e.Action == "pass" || e.Action == "skip":
			for _, l := range output[key] {
				if strings.HasPrefix(l, "ok ") || strings.HasPrefix(l, "? ") {
					fmt.Fprint(w, l)
				}
			}
			delete(output, key)
		}
		if readErr == io.EOF {
			break
		}
	}

	for _, s := range tolerated {
		fmt.Fprint(w, "skipped, which is allowed outside of CI: ", s)
	}
	for _, s := range skipped {
		fmt.Fprint(w, "SKIPPED, which is not allowed: ", s)
	}
	fmt.Fprintf(w, "tests and sub-tests: %d passed, %d failed, %d skipped\n", passed, failed, len(tolerated)+len(skipped))
	if passed+failed == 0 {
		fmt.Fprintln(w, "no test was run")
	}
	return !broken && failed == 0 && len(skipped) == 0 && passed > 0, nil
}
