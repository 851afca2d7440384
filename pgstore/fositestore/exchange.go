package fositestore

import (
	"context"
	"runtime"
	"sync"
	"weak"

	"github.com/ory/fosite"
)

// exchanges remembers, for each token request that is under way, the code that it has
// read: fosite's handlers look for it four times. Nothing is decided by what is remembered:
// of those that have read a code unused, the UPDATE that uses it takes one.
//
// A token request is fosite's object, which its context has, and is remembered for as long as
// somebody holds on to it.
type exchanges struct{ codes sync.Map } // of weak.Pointer[fosite.AccessRequest] to exchanged

type exchanged struct {
	hash hash
	row  *codeRow
}

// of returns the token request of a context, or nil.
func (*exchanges) of(ctx context.Context) *fosite.AccessRequest {
	request, _ := ctx.Value(fosite.AccessRequestContextKey).(*fosite.AccessRequest)
	return request
}

func (e *exchanges) recall(ctx context.Context, h hash) *codeRow {
	request := e.of(ctx)
	if request == nil {
		return nil
	}
	if found, ok := e.codes.Load(weak.Make(request)); ok {
		if code, _ := found.(exchanged); code.hash == h {
			return code.row
		}
	}
	return nil
}

func (e *exchanges) remember(ctx context.Context, h hash, row *codeRow) {
	request := e.of(ctx)
	if request == nil {
		return
	}
	key := weak.Make(request)
	if _, there := e.codes.Swap(key, exchanged{h, row}); !there {
		runtime.AddCleanup(request, func(key weak.Pointer[fosite.AccessRequest]) { e.codes.Delete(key) }, key)
	}
}

// used has the code read as used, which the token request is about to do.
func (e *exchanges) used(ctx context.Context, h hash) {
	if row := e.recall(ctx, h); row != nil {
		used := *row
		used.used = true
		e.remember(ctx, h, &used)
	}
}

// forget is for when what a token request has done may have been taken back.
func (e *exchanges) forget(ctx context.Context) {
	if request := e.of(ctx); request != nil {
		e.codes.Delete(weak.Make(request))
	}
}
