package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"
)

func (m measurement) rate() float64 { return float64(len(m.flows)) / m.elapsed.Seconds() }

// percentile returns a value of the flows in milliseconds.
func (m measurement) percentile(p int, of func(flow) time.Duration) float64 {
	values := make([]time.Duration, len(m.flows))
	for i, f := range m.flows {
		values[i] = of(f)
	}
	slices.Sort(values)
	return values[(len(values)-1)*p/100].Seconds() * 1000
}

func total(f flow) time.Duration { return f.total }

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// medianOf is the median over the rounds.
func medianOf(rounds []measurement, value func(measurement) float64) float64 {
	values := make([]float64, len(rounds))
	for i, m := range rounds {
		values[i] = value(m)
	}
	return median(values)
}

// report prints the tables as Markdown.
func (b *bench) report(ctx context.Context, results map[scenario]map[variant][]measurement) error {
	machine, err := b.machine(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("%s\n\n", machine)
	fmt.Println("| scopes | C | | flows/s | p50 / p95 / p99 ms | requests | statements | BEGIN, COMMIT | write txs | WAL bytes | without page images | rows left | CPU ms: server | database | load |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
	for _, s := range b.scenarios() {
		for _, v := range variants {
			rounds := results[s][v]
			of := func(value func(measurement) float64) float64 { return medianOf(rounds, value) }
			latency := func(p int) float64 {
				return of(func(m measurement) float64 { return m.percentile(p, total) })
			}
			fmt.Printf("| %s | %d | %s | %.0f | %.1f / %.1f / %.1f | %.1f | %.1f | %.1f | %.2f | %.0f | %.0f | %.1f | %.2f | %.2f | %.2f |\n",
				b.scopesOf(s), s.workers, v, of(measurement.rate), latency(50), latency(95), latency(99),
				of(func(m measurement) float64 { return float64(m.requests) / float64(len(m.flows)) }),
				of(func(m measurement) float64 { return m.statements }), of(func(m measurement) float64 { return m.control }),
				of(func(m measurement) float64 { return m.transactions }),
				of(func(m measurement) float64 { return m.wal }), of(func(m measurement) float64 { return m.wal - m.images }),
				of(func(m measurement) float64 { return m.rows }),
				of(func(m measurement) float64 { return m.serverCPU }), of(func(m measurement) float64 { return m.databaseCPU }),
				of(func(m measurement) float64 { return m.loadCPU }))
		}
	}

	fmt.Println("\nWhat is left of the server without the gate, with ÷ without, in pairs of measurements:")
	fmt.Println("\n| scopes | C | | flows/s | lowest and highest pair | CPU of server and database |")
	fmt.Println("|---|---|---|---|---|---|")
	for _, s := range b.scenarios() {
		for _, v := range variants {
			if v == noGate {
				continue
			}
			var rates, cpus []float64
			for i, with := range results[s][v] {
				without := results[s][noGate][i]
				rates = append(rates, with.rate()/without.rate())
				cpus = append(cpus, (with.serverCPU+with.databaseCPU)/(without.serverCPU+without.databaseCPU))
			}
			fmt.Printf("| %s | %d | %s | %.2f | %.2f, %.2f | %.2f |\n", b.scopesOf(s), s.workers, v, median(rates), slices.Min(rates), slices.Max(rates), median(cpus))
		}
	}

	fmt.Println("\nWhere the time of a flow goes, p50 in ms, as shipped:")
	fmt.Printf("\n| scopes | C | %s |\n|---|---|%s\n", strings.Join(stepNames[:], " | "), strings.Repeat("---|", steps))
	for _, s := range b.scenarios() {
		var cells []string
		for step := range steps {
			cells = append(cells, fmt.Sprintf("%.2f", medianOf(results[s][shipped], func(m measurement) float64 {
				return m.percentile(50, func(f flow) time.Duration { return f.steps[step] })
			})))
		}
		fmt.Printf("| %s | %d | %s |\n", b.scopesOf(s), s.workers, strings.Join(cells, " | "))
	}
	least, err := bcryptTime(bcrypt.MinCost)
	if err != nil {
		return err
	}
	usual, err := bcryptTime(12)
	if err != nil {
		return err
	}
	fmt.Printf("\nChecking a password by bcrypt would add %.1f ms at cost %d, and %.0f ms at cost 12.\n", least, bcrypt.MinCost, usual)

	if b.verbose {
		for _, s := range b.scenarios() {
			for _, v := range variants {
				last := results[s][v][b.rounds-1]
				fmt.Fprintf(os.Stderr, "\n%s, C = %d, %s, by flow\n%s\nrows\n%s\nlog, without page images\n%s\n", b.scopesOf(s), s.workers, v,
					strings.Join(last.byStatement, "\n"), strings.Join(last.byTable, "\n"), strings.Join(last.byRelation, "\n"))
			}
		}
	}
	return nil
}

// bcryptTime returns how long one comparison takes, in milliseconds, at best: at other times the load of others is in it.
func bcryptTime(cost int) (float64, error) {
	hash, err := bcrypt.GenerateFromPassword([]byte(password), cost)
	if err != nil {
		return 0, err
	}
	best := time.Hour
	for range 5 {
		start := time.Now()
		if err := bcrypt.CompareHashAndPassword(hash, []byte(password)); err != nil {
			return 0, err
		}
		best = min(best, time.Since(start))
	}
	return best.Seconds() * 1000, nil
}
