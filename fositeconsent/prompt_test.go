package fositeconsent_test

import "testing"

func TestRememberingIsOfferedWhereItCouldCount(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t)
	if !h.prompt(web(), "peter").Rememberable {
		t.Error("not offered for a client with a secret")
	}
	if h.prompt(web("client_id", "native", "redirect_uri", "com.example.app:/cb"), "peter").Rememberable {
		t.Error("offered for a client that anybody can pass for")
	}
	if newHost(t).prompt(params(), "peter").Rememberable {
		t.Error("offered by a gate that keeps no consents")
	}
}
