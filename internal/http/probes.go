package http

import "net/http"

func (s *server) livez(w http.ResponseWriter, _ *http.Request) error {
	return s.writeProbe(w, http.StatusOK, Liveness{Status: "alive"})
}

func (s *server) readyz(w http.ResponseWriter, r *http.Request) error {
	if reasons := s.NotReady(r.Context()); len(reasons) > 0 {
		return s.writeProbe(w, http.StatusServiceUnavailable, Readiness{Status: ReadinessNotReady, Reasons: reasons})
	}
	return s.writeProbe(w, http.StatusOK, Readiness{Status: ReadinessReady})
}

// writeProbe answers with what is true now and never later.
func (s *server) writeProbe(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Cache-Control", "no-store")
	return s.writeJSON(w, status, v)
}

func (s *server) contract(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/yaml")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(s.Contract) // a caller that has left reads no answer
	return nil
}
