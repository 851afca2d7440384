package tx

import (
	"fmt"
	"testing"
)

// What statements are made of: each condition's parameters come after those before it, and
// nothing but a parameter is renumbered.
func TestRender(t *testing.T) {
	t.Parallel()
	eleven := make([]any, 11)
	for i := range eleven {
		eleven[i] = i
	}
	for _, c := range []struct {
		sql        string
		args       []any
		conditions []Condition
		want       string
		wantArgs   []any
	}{
		{"UPDATE t SET a = $1", []any{"a"}, []Condition{{SQL: "$1", Args: []any{1}}}, "UPDATE t SET a = $1", []any{"a"}},
		{"SELECT $1 WHERE {if}", []any{"a"}, nil, "SELECT $1 WHERE true", []any{"a"}},
		{"SELECT $1 WHERE {if}", []any{"{if}"}, []Condition{
			{SQL: "x = $1 AND y = $2", Args: []any{"b", "c"}},
			{SQL: `"t$1"."$2" = $1`, Late: func() []any { return []any{"d"} }},
			{SQL: "z = $1", Args: []any{"e"}},
		}, `SELECT $1 WHERE x = $2 AND y = $3 AND "t$1"."$2" = $4 AND z = $5`, []any{"{if}", "b", "c", "d", "e"}},
		{"{if}", []any{"a"}, []Condition{{SQL: "$1, $11, $10", Args: eleven}}, "$2, $12, $11", append([]any{"a"}, eleven...)},
	} {
		given := fmt.Sprint(c.args)
		sql, args := Render(c.sql, c.args, c.conditions)
		if sql != c.want || fmt.Sprint(args) != fmt.Sprint(c.wantArgs) {
			t.Errorf("%s: %s with %v, want %s with %v", c.sql, sql, args, c.want, c.wantArgs)
		}
		if fmt.Sprint(c.args) != given {
			t.Errorf("%s: the arguments were changed to %v", c.sql, c.args)
		}
	}
}
